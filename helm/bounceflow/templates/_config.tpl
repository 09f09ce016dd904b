{{/* A value as TOML. Helm reads every number of a values file as a float; whole ones are written as such. */}}
{{- define "bounceflow.tomlValue" -}}
{{- if kindIs "string" . -}}
{{ toRawJson . }}
{{- else if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . }}{{ $items = append $items (include "bounceflow.tomlValue" .) }}{{ end -}}
[{{ join ", " $items }}]
{{- else if kindIs "map" . -}}
{{- $items := list -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $items = append $items (printf "%s = %s" (toRawJson $key) (include "bounceflow.tomlValue" $value)) -}}
{{- end -}}
{{- end -}}
{{ ternary "{}" (printf "{ %s }" (join ", " $items)) (empty $items) }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* The lines of a table. */}}
{{- define "bounceflow.tomlTable" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ regexMatch "^[A-Za-z0-9_-]+$" $key | ternary $key (toRawJson $key) }} = {{ include "bounceflow.tomlValue" $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* `config` with what the chart says itself: addresses, and the paths of mounted files. As JSON. */}}
{{- define "bounceflow.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $files := "/etc/bounceflow" -}}
{{- $clickhouse := $config.clickhouse -}}
{{- if and $clickhouse.url $clickhouse.shards -}}
{{- fail "config.clickhouse.url and config.clickhouse.shards both name servers: set url to null" -}}
{{- else if not (or $clickhouse.url $clickhouse.shards) -}}
{{- fail "config.clickhouse names no server: set url, or shards and cluster" -}}
{{- else if and $clickhouse.shards (not $clickhouse.cluster) -}}
{{- fail "config.clickhouse.shards need config.clickhouse.cluster: the cluster of these shards in the servers' remote_servers" -}}
{{- end -}}
{{- $kafka := dict -}}
{{- range $property, $value := $config.kafka -}}
{{- if not (kindIs "invalid" $value) -}}
{{- /* All of librdkafka's properties are texts. */ -}}
{{- $_ := set $kafka $property (kindIs "string" $value | ternary $value (include "bounceflow.tomlValue" $value)) -}}
{{- end -}}
{{- end -}}
{{- $kafkaFiles := dict -}}
{{- range $property, $_ := .Values.secrets.kafka -}}
{{- $file := printf "%s/secrets/kafka/%s" $files $property -}}
{{- if hasSuffix ".location" $property }}{{ $_ := set $kafka $property $file }}{{ else }}{{ $_ := set $kafkaFiles $property $file }}{{ end -}}
{{- end -}}
{{- $_ := set $config "kafka" $kafka -}}
{{- if $kafkaFiles }}{{ $_ := set $config "kafka_files" $kafkaFiles }}{{ end -}}
{{- range $name, $_ := .Values.secrets.clickhouse -}}
{{- $_ := set $config.clickhouse (printf "%s_file" $name) (printf "%s/secrets/clickhouse/%s" $files $name) -}}
{{- end -}}
{{- if .Values.secrets.recipient.key -}}
{{- $_ := set $config.recipient "key_file" (printf "%s/secrets/recipient/key" $files) -}}
{{- end -}}
{{- if .Values.secrets.recipient.oldKeys -}}
{{- $old := dict -}}
{{- range $id, $_ := .Values.secrets.recipient.oldKeys }}{{ $_ := set $old $id (printf "%s/secrets/recipient/old/%s" $files $id) }}{{ end -}}
{{- $_ := set $config.recipient "old_key_files" $old -}}
{{- end -}}
{{- if .Values.rules.classification }}{{ $_ := set $config.classify "rules" (list (printf "%s/rules" $files)) }}{{ end -}}
{{- if .Values.rules.alerts }}{{ $_ := set $config.watch "rules" (printf "%s/alert-rules.toml" $files) }}{{ end -}}
{{- if .Values.rules.isps }}{{ $_ := set $config "isps" (printf "%s/isps.toml" $files) }}{{ end -}}
{{- $http := dict "listen" (printf "%s:%d" .Values.http.address (int64 .Values.http.port)) -}}
{{- if .Values.secrets.http.token }}{{ $_ := set $http "token_file" (printf "%s/secrets/http/token" $files) }}{{ end -}}
{{- if .Values.secrets.http.certificate -}}
{{- $tls := printf "%s/secrets/http" $files -}}
{{- $_ := set $http "tls" (dict "certificate_file" (printf "%s/certificate" $tls) "key_file" (printf "%s/key" $tls)) -}}
{{- end -}}
{{- $_ := set $config "http" $http -}}
{{- /* Every process is a pod of a StatefulSet. */ -}}
{{- $_ := set $config "ordinal" "hostname" -}}
{{- toJson $config -}}
{{- end -}}

{{/* The configuration file. */}}
{{- define "bounceflow.toml" -}}
{{- $config := include "bounceflow.config" . | fromJson -}}
# Written by the chart from its values.
{{- range $key, $value := $config }}
{{- if not (or (kindIs "map" $value) (kindIs "slice" $value)) }}
{{ $key }} = {{ include "bounceflow.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := $config }}
{{- if and (kindIs "map" $value) $value }}

[{{ $key }}]
{{- include "bounceflow.tomlTable" $value }}
{{- end }}
{{- end }}
{{- range $config.inputs }}

[[inputs]]
{{- include "bounceflow.tomlTable" . }}
{{- end }}
{{ end -}}

{{/*
The ConfigMaps of a release, or (`prefix` FULLNAME-hooks) those of the jobs that run before it: an upgrade that is refused by
`check-config` then has changed nothing. Wants root, prefix, annotations.
*/}}
{{- define "bounceflow.configMaps" -}}
{{- $values := .root.Values -}}
{{- $files := dict "bounceflow.toml" (include "bounceflow.toml" .root) -}}
{{- with $values.rules.alerts }}{{ $_ := set $files "alert-rules.toml" . }}{{ end -}}
{{- with $values.rules.isps }}{{ $_ := set $files "isps.toml" . }}{{ end -}}
{{- $maps := dict "config" $files -}}
{{- with $values.rules.classification }}{{ $_ := set $maps "rules" . }}{{ end -}}
{{- with $values.schemas }}{{ $_ := set $maps "schemas" . }}{{ end -}}
{{- range $suffix, $data := $maps }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $.prefix }}-{{ $suffix }}
  namespace: {{ $.root.Release.Namespace }}
  labels:
    {{- include "bounceflow.labels" $.root | nindent 4 }}
  {{- with merge (dict) $.annotations $values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
data:
  {{- range $name, $text := $data }}
  {{ $name }}: |2
    {{- $text | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Everything a process reads, below /etc/bounceflow: configuration, rules, schemas and secrets in one volume. */}}
{{- define "bounceflow.volume" -}}
{{- $values := .root.Values -}}
name: files
projected:
  defaultMode: 292 # 0444
  sources:
    - configMap:
        name: {{ .prefix }}-config
    {{- range $suffix := list "rules" "schemas" }}
    {{- $data := eq $suffix "rules" | ternary $values.rules.classification $values.schemas }}
    {{- if $data }}
    - configMap:
        name: {{ $.prefix }}-{{ $suffix }}
        items:
          {{- range $name, $_ := $data }}
          - {key: {{ $name | quote }}, path: {{ printf "%s/%s" $suffix $name | quote }}}
          {{- end }}
    {{- end }}
    {{- end }}
    {{- range $property, $ref := $values.secrets.kafka }}
    {{- include "bounceflow.secret" (dict "ref" $ref "path" (printf "kafka/%s" $property)) | nindent 4 }}
    {{- end }}
    {{- range $name, $ref := $values.secrets.clickhouse }}
    {{- include "bounceflow.secret" (dict "ref" $ref "path" (printf "clickhouse/%s" $name)) | nindent 4 }}
    {{- end }}
    {{- range $name, $ref := omit $values.secrets.http "scrapeToken" }}
    {{- include "bounceflow.secret" (dict "ref" $ref "path" (printf "http/%s" $name)) | nindent 4 }}
    {{- end }}
    {{- with $values.secrets.recipient.key }}
    {{- include "bounceflow.secret" (dict "ref" . "path" "recipient/key") | nindent 4 }}
    {{- end }}
    {{- range $id, $ref := $values.secrets.recipient.oldKeys }}
    {{- include "bounceflow.secret" (dict "ref" $ref "path" (printf "recipient/old/%s" $id)) | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "bounceflow.secret" -}}
- secret:
    name: {{ .ref.name | quote }}
    items:
      - {key: {{ .ref.key | quote }}, path: {{ printf "secrets/%s" .path | quote }}, mode: 288} # 0440
{{- end -}}
