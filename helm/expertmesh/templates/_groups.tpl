{{/* A worker group's settings with their defaults; as YAML, to be read with fromYaml. Takes (list root name group). */}}
{{- define "expertmesh.group" -}}
{{- $group := index . 2 -}}
{{- $defaults := dict "enabled" true "replicas" 1 "fronts" 0 "routers" 0 "shards" 0 "gpus" 0 "env" list "annotations" dict
  "nodeSelector" dict "tolerations" list "affinity" dict "priorityClassName" "" "runtimeClassName" ""
  "topologySpread" (dict "enabled" false "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway")
  "podDisruptionBudget" (dict "enabled" true "maxUnavailable" 1) -}}
{{- $merged := mustMergeOverwrite (deepCopy $defaults) (deepCopy $group) -}}
{{- /* Not `default`, which takes 0 for unset. */ -}}
{{- range $bound := list "minReplicas" "maxReplicas" -}}
{{- if not (hasKey $merged $bound) -}}{{- $_ := set $merged $bound $merged.replicas -}}{{- end -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* Enabled worker groups by name. */}}
{{- define "expertmesh.groups" -}}
{{- $groups := dict -}}
{{- range $name, $group := .Values.workers -}}
{{- $full := include "expertmesh.group" (list $ $name $group) | fromYaml -}}
{{- if $full.enabled -}}{{- $_ := set $groups $name $full -}}{{- end -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{/* How many pods of a group must stay: all that there are always, but maxUnavailable. Takes (list root group). */}}
{{- define "expertmesh.minAvailable" -}}
{{- $group := index . 1 -}}
{{- $pods := (index . 0).Values.autoscaling.enabled | ternary $group.minReplicas $group.replicas -}}
{{- $may := $group.podDisruptionBudget.maxUnavailable -}}
{{- if kindIs "string" $may -}}
{{- /* Upwards, as Kubernetes counts. */ -}}
{{- $may = ceil (divf (mulf $pods (trimSuffix "%" $may | float64)) 100) -}}
{{- end -}}
{{- max 0 (sub (int $pods) (int $may)) -}}
{{- end -}}
