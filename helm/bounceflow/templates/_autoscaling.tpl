{{/* Slow: every change of the number of consumers makes their group rebalance. */}}
{{- define "bounceflow.behavior" -}}
{{- $defaults := dict "scaleUp" (dict "stabilizationWindowSeconds" 60 "policies" (list (dict "type" "Pods" "value" 2 "periodSeconds" 60))) "scaleDown" (dict "stabilizationWindowSeconds" 600 "policies" (list (dict "type" "Pods" "value" 1 "periodSeconds" 300))) -}}
{{- toYaml (mergeOverwrite $defaults .) -}}
{{- end -}}

{{/* What KEDA's Kafka scaler calls the secrets of `secrets.kafka`. As JSON. */}}
{{- define "bounceflow.kedaParameters" -}}
{{- $names := dict "sasl.username" "username" "sasl.password" "password" "ssl.ca.location" "ca" "ssl.certificate.location" "cert" "ssl.key.location" "key" "ssl.key.password" "keyPassword" -}}
{{- $parameters := list -}}
{{- range $property, $ref := .Values.secrets.kafka -}}
{{- with get $names $property -}}
{{- $parameters = append $parameters (dict "parameter" . "name" $ref.name "key" $ref.key) -}}
{{- end -}}
{{- end -}}
{{- toJson $parameters -}}
{{- end -}}

{{/* Whether a ScaledObject relies on the chart's own TriggerAuthentication. */}}
{{- define "bounceflow.kedaOwnAuthentication" -}}
{{- range include "bounceflow.workloads" . | fromJsonArray -}}
{{- if and (dig "keda" "enabled" false .values) (not (dig "keda" "authenticationRef" "" .values)) }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* Wants root, role, keda, topic, group. */}}
{{- define "bounceflow.lagTrigger" -}}
{{- $kafka := .root.Values.config.kafka -}}
{{- $protocol := get $kafka "security.protocol" | default "plaintext" | lower -}}
{{- $metadata := dict "bootstrapServers" (get $kafka "bootstrap.servers") "consumerGroup" .group "topic" .topic "lagThreshold" (int64 .keda.lagThreshold | toString) "offsetResetPolicy" "earliest" -}}
{{- if hasPrefix "sasl" $protocol -}}
{{- $mechanism := get $kafka "sasl.mechanism" | default (get $kafka "sasl.mechanisms") | default "PLAIN" -}}
{{- $_ := set $metadata "sasl" (ternary "plaintext" (lower $mechanism | replace "-" "_" | replace "scram_sha_" "scram_sha") (eq $mechanism "PLAIN")) -}}
{{- end -}}
{{- if hasSuffix "ssl" $protocol }}{{ $_ := set $metadata "tls" "enable" }}{{ end -}}
{{- $metadata = mergeOverwrite $metadata .keda.metadata -}}
{{- $sasl := ne (get $metadata "sasl" | default "none") "none" -}}
{{- if and $sasl (not .keda.authenticationRef) (not (hasKey .root.Values.secrets.kafka "sasl.username")) -}}
{{- fail (printf "%s.keda: KEDA takes the user from a Secret alone: name it as secrets.kafka.\"sasl.username\" instead of under config.kafka, or set %s.keda.authenticationRef" .role .role) -}}
{{- end -}}
- type: kafka
  metadata:
    {{- toYaml $metadata | nindent 4 }}
  {{- if .keda.authenticationRef }}
  authenticationRef: {name: {{ .keda.authenticationRef }}}
  {{- else if include "bounceflow.kedaParameters" .root | fromJsonArray }}
  authenticationRef: {name: {{ include "bounceflow.fullname" .root }}-kafka}
  {{- end }}
{{- end -}}
