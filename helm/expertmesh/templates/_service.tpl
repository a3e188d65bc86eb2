{{/* Labels and annotations that a Service's values add to the chart's. Takes (list root service). */}}
{{- define "expertmesh.serviceMetadata" -}}
labels:
  {{- include "expertmesh.labels" (index . 0) | nindent 2 }}
  {{- with (index . 1).labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with (index . 1).annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* How a Service is reached from outside. Takes its values. */}}
{{- define "expertmesh.serviceType" -}}
type: {{ .type }}
{{- with .loadBalancerClass }}
loadBalancerClass: {{ . }}
{{- end }}
{{- with .loadBalancerSourceRanges }}
loadBalancerSourceRanges:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .externalTrafficPolicy }}
externalTrafficPolicy: {{ . }}
{{- end }}
{{- end -}}
