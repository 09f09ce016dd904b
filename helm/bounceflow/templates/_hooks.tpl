{{/* What the jobs before an install or upgrade need exists for them alone: nothing of the release is there yet, or it is the old one's. */}}
{{- define "bounceflow.hookAnnotations" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- with .root.Values.commonAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "bounceflow.hookServiceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ include "bounceflow.fullname" . }}-hooks
{{- else -}}
{{ include "bounceflow.serviceAccount" . }}
{{- end -}}
{{- end -}}

{{/* A job that runs one command. Wants root, name, weight, args. */}}
{{- define "bounceflow.job" -}}
{{- $values := .root.Values -}}
{{- $full := include "bounceflow.fullname" .root -}}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $full }}-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "bounceflow.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
  annotations:
    {{- include "bounceflow.hookAnnotations" . | nindent 4 }}
spec:
  backoffLimit: {{ int64 $values.jobs.backoffLimit }}
  activeDeadlineSeconds: {{ int64 $values.jobs.activeDeadlineSeconds }}
  template:
    metadata:
      labels:
        {{- include "bounceflow.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .name }}
        {{- with $values.pod.labels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with merge (dict) $values.pod.annotations $values.commonAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      restartPolicy: Never
      {{- include "bounceflow.podCommon" (dict "root" .root "prefix" (printf "%s-hooks" $full) "pod" $values.pod "serviceAccount" (include "bounceflow.hookServiceAccount" .root)) | nindent 6 }}
      containers:
        - name: {{ .name }}
          args: {{ toJson .args }}
          resources:
            {{- toYaml $values.jobs.resources | nindent 12 }}
          {{- include "bounceflow.container" .root | nindent 10 }}
{{- end -}}
