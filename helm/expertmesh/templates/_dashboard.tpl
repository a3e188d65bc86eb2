{{/* A dashboard that links its runbooks where they are published, or, if they are nowhere, links none. */}}
{{- define "expertmesh.dashboard" -}}
{{- if .runbooks -}}
{{- .json | replace "RUNBOOKS_URL" (trimSuffix "/" .runbooks) | trim -}}
{{- else -}}
{{- $board := fromJson .json -}}
{{- range $board.panels -}}{{- $_ := unset . "links" -}}{{- end -}}
{{- $links := list -}}
{{- range $board.links -}}{{- if ne .type "link" -}}{{- $links = append $links . -}}{{- end -}}{{- end -}}
{{- $_ := set $board "links" $links -}}
{{- toPrettyJson $board -}}
{{- end -}}
{{- end -}}
