{{/* What a group's settings, and the head's, are where nothing is said or null. As YAML, to be read with fromYaml. */}}
{{- define "expertmesh.groupDefaults" -}}
{{- dict "enabled" true "replicas" 1 "fronts" 0 "routers" 0 "shards" 0 "gpus" 0 "gpuResource" "nvidia.com/gpu"
  "nodeSelector" dict "tolerations" list "affinity" dict "priorityClassName" "" "runtimeClassName" ""
  "topologySpread" (dict "enabled" false "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway")
  "podDisruptionBudget" (dict "enabled" true "maxUnavailable" 1) | toYaml -}}
{{- end -}}

{{/* A dict without its nulls, at any depth, as YAML: Helm removes only those that have a default in values.yaml. */}}
{{- define "expertmesh.withoutNulls" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $kept $key (include "expertmesh.withoutNulls" $value | fromYaml) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $kept $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $kept -}}
{{- end -}}

{{/* A worker group's settings with their defaults; as YAML, to be read with fromYaml. Takes (list root name group). */}}
{{- define "expertmesh.group" -}}
{{- $group := include "expertmesh.withoutNulls" (index . 2) | fromYaml -}}
{{- $merged := mustMergeOverwrite (include "expertmesh.groupDefaults" . | fromYaml) $group -}}
{{- /* Not `default`, which takes 0 for unset. */ -}}
{{- range $bound := list "minReplicas" "maxReplicas" -}}
{{- if not (hasKey $merged $bound) -}}{{- $_ := set $merged $bound $merged.replicas -}}{{- end -}}
{{- end -}}
{{- include "expertmesh.withCommon" (list (index . 0) $merged) -}}
{{- end -}}

{{/* The head's settings, as a group's. */}}
{{- define "expertmesh.head" -}}
{{- $head := include "expertmesh.withoutNulls" .Values.head | fromYaml -}}
{{- include "expertmesh.withCommon" (list . (mustMergeOverwrite (include "expertmesh.groupDefaults" . | fromYaml) $head)) -}}
{{- end -}}

{{/* A group's settings with what all pods get: its own labels and annotations win, its own lists come last. */}}
{{- define "expertmesh.withCommon" -}}
{{- $common := (index . 0).Values.pods | default dict -}}
{{- $group := index . 1 -}}
{{- range $key := list "labels" "annotations" -}}
{{- $_ := set $group $key (mustMergeOverwrite (deepCopy (get $common $key | default dict)) (get $group $key | default dict)) -}}
{{- end -}}
{{- range $key := list "env" "envFrom" "volumes" "volumeMounts" -}}
{{- $_ := set $group $key (concat (get $common $key | default list) (get $group $key | default list)) -}}
{{- end -}}
{{- toYaml $group -}}
{{- end -}}

{{/* Enabled worker groups by name. */}}
{{- define "expertmesh.groups" -}}
{{- $groups := dict -}}
{{- range $name, $group := include "expertmesh.withoutNulls" .Values.workers | fromYaml -}}
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
