{{/* Ports of addresses, each once. Wants a list of `host:port` or URLs. As JSON. */}}
{{- define "bounceflow.ports" -}}
{{- $ports := list -}}
{{- range . -}}
{{- $port := regexFind ":[0-9]+(/|$)" . | trimPrefix ":" | trimSuffix "/" -}}
{{- $ports = append $ports (int64 ($port | default (ternary "443" "80" (hasPrefix "https:" .)))) -}}
{{- end -}}
{{- toJson (uniq $ports) -}}
{{- end -}}

{{/* An egress rule. Wants to, ports, protocols. */}}
{{- define "bounceflow.egress" -}}
- ports:
    {{- range $port := .ports }}
    {{- range $protocol := $.protocols | default (list "TCP") }}
    - {port: {{ int64 $port }}, protocol: {{ $protocol }}}
    {{- end }}
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* What pods and jobs may connect to. */}}
{{- define "bounceflow.egressRules" -}}
{{- $egress := .Values.networkPolicy.egress -}}
{{- $config := .Values.config -}}
{{- $brokers := list -}}
{{- range get $config.kafka "bootstrap.servers" | splitList "," -}}
{{- $broker := trim . | regexReplaceAll "^[A-Za-z_]+://" "" -}}
{{- $brokers = append $brokers (ternary $broker (printf "%s:9092" $broker) (regexMatch ":[0-9]+$" $broker)) -}}
{{- end -}}
{{- $kafka := concat (include "bounceflow.ports" $brokers | fromJsonArray) $egress.kafka.extraPorts -}}
{{- $servers := list -}}
{{- range $config.clickhouse.shards | default (list $config.clickhouse) -}}
{{- $url := .url | default list -}}
{{- $servers = concat $servers (kindIs "slice" $url | ternary $url (list $url)) -}}
{{- end -}}
{{ include "bounceflow.egress" (dict "ports" (list 53) "protocols" (list "UDP" "TCP") "to" $egress.dns.to) }}
{{ include "bounceflow.egress" (dict "ports" (uniq $kafka) "to" $egress.kafka.to) }}
{{ include "bounceflow.egress" (dict "ports" (include "bounceflow.ports" $servers | fromJsonArray) "to" $egress.clickhouse.to) }}
{{- with $config.watch.alertmanagers }}
{{ include "bounceflow.egress" (dict "ports" (include "bounceflow.ports" . | fromJsonArray) "to" $egress.alertmanager.to) }}
{{- end }}
{{- with ($config.telemetry | default dict).otlp_endpoint }}
{{ include "bounceflow.egress" (dict "ports" (include "bounceflow.ports" (list .) | fromJsonArray)) }}
{{- end }}
{{- with $egress.extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}
