{{/* Names and labels. KubeRay adds suffixes to the RayService's name: it must stay short. */}}
{{- define "expertmesh.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects all pods of this release. */}}
{{- define "expertmesh.selector" -}}
expertmesh.io/release: {{ include "expertmesh.fullname" . }}
{{- end -}}

{{- define "expertmesh.labels" -}}
{{ include "expertmesh.selector" . }}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ include "expertmesh.labelValue" .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | include "expertmesh.labelValue" }}
{{- end -}}

{{/* A version as a label's value: no + (which build metadata has), at most 63 characters, the last a letter or a digit. */}}
{{- define "expertmesh.labelValue" -}}
{{- regexReplaceAll "[^A-Za-z0-9]+$" (. | replace "+" "_" | trunc 63) "" -}}
{{- end -}}

{{- define "expertmesh.serviceAccount" -}}
{{- default (include "expertmesh.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* The autoscaler runs in the head's pod and must change the RayCluster: KubeRay binds a role to this account. */}}
{{- define "expertmesh.headServiceAccount" -}}
{{- if .Values.autoscaling.enabled -}}
{{- printf "%s-head" (include "expertmesh.serviceAccount" .) -}}
{{- else -}}
{{- include "expertmesh.serviceAccount" . -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.secretName" -}}
{{- default (printf "%s-secret" (include "expertmesh.fullname" .)) .Values.secret.existingSecret -}}
{{- end -}}

{{- define "expertmesh.tlsSecret" -}}
{{- default (printf "%s-tls" (include "expertmesh.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "expertmesh.tokensSecret" -}}
{{- default (printf "%s-tokens" (include "expertmesh.fullname" .)) .Values.tokens.existingSecret -}}
{{- end -}}

{{- define "expertmesh.claimName" -}}
{{- default (printf "%s-checkpoint" (include "expertmesh.fullname" .)) .Values.checkpoint.pvc.existingClaim -}}
{{- end -}}

{{- define "expertmesh.image" -}}
{{- /* Tags have no + either. */ -}}
{{- $default := printf "%s-%s" (.Chart.AppVersion | replace "+" "_") (ternary "cuda" "cpu" (eq .Values.config.model.device "cuda")) -}}
{{- printf "%s:%s" .Values.image.repository (default $default .Values.image.tag) -}}
{{- end -}}
