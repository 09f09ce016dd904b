{{/* Ports of addresses, each once. Wants a list of `host:port` or URLs. As JSON. */}}
{{- define "bounceflow.ports" -}}
{{- $ports := list -}}
{{- range . -}}
{{- $port := regexFind ":[0-9]+(/|$)" . | trimPrefix ":" | trimSuffix "/" -}}
{{- $ports = append $ports (int64 ($port | default (ternary "443" "80" (hasPrefix "https:" .)))) -}}
{{- end -}}
{{- toJson (uniq $ports) -}}
{{- end -}}

{{/* An egress rule. Wants ports, protocols, and values: to, extraPorts. */}}
{{- define "bounceflow.egress" -}}
{{- $ports := list -}}
{{- range concat .ports (.values.extraPorts | default list) }}{{ $ports = append $ports (int64 .) }}{{ end -}}
- ports:
    {{- range $port := uniq $ports }}
    {{- range $protocol := $.protocols | default (list "TCP") }}
    - {port: {{ $port }}, protocol: {{ $protocol }}}
    {{- end }}
    {{- end }}
  {{- with .values.to }}
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
{{- $broker := regexReplaceAll "^[A-Za-z_]+://" (trim .) "" -}}
{{- $brokers = append $brokers (ternary $broker (printf "%s:9092" $broker) (regexMatch ":[0-9]+$" $broker)) -}}
{{- end -}}
{{- $servers := list -}}
{{- range $config.clickhouse.shards | default (list $config.clickhouse) -}}
{{- $url := .url | default list -}}
{{- $servers = concat $servers (kindIs "slice" $url | ternary $url (list $url)) -}}
{{- end -}}
{{- /* Ports are held where a Service has been translated, and pods of OpenShift's DNS listen on 5353. */ -}}
{{ include "bounceflow.egress" (dict "ports" (list 53 5353) "protocols" (list "UDP" "TCP") "values" $egress.dns) }}
{{ include "bounceflow.egress" (dict "ports" (include "bounceflow.ports" $brokers | fromJsonArray) "values" $egress.kafka) }}
{{ include "bounceflow.egress" (dict "ports" (include "bounceflow.ports" $servers | fromJsonArray) "values" $egress.clickhouse) }}
{{- with $config.watch.alertmanagers }}
{{ include "bounceflow.egress" (dict "ports" (include "bounceflow.ports" . | fromJsonArray) "values" $egress.alertmanager) }}
{{- end }}
{{- with ($config.telemetry | default dict).otlp_endpoint }}
{{ include "bounceflow.egress" (dict "ports" (include "bounceflow.ports" (list .) | fromJsonArray) "values" dict) }}
{{- end }}
{{- with $egress.extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}
