{{/* Refuses what no schema can: what values say to each other. */}}
{{- define "expertmesh.check" -}}
{{- include "expertmesh.checkReplicas" . -}}
{{- include "expertmesh.checkPlaces" . -}}
{{- include "expertmesh.checkCopies" . -}}
{{- include "expertmesh.checkPorts" . -}}
{{- include "expertmesh.checkPods" . -}}
{{- include "expertmesh.checkServices" . -}}
{{- include "expertmesh.checkChoices" . -}}
{{- end -}}

{{/* A group's bounds hold its number of pods: KubeRay would silently start another number. */}}
{{- define "expertmesh.checkReplicas" -}}
{{- range $name, $group := include "expertmesh.groups" . | fromYaml -}}
{{- if gt (int $group.replicas) (int $group.maxReplicas) -}}
{{- fail (printf "workers.%s.replicas is %v, more than maxReplicas %v" $name $group.replicas $group.maxReplicas) -}}
{{- end -}}
{{- if lt (int $group.replicas) (int $group.minReplicas) -}}
{{- fail (printf "workers.%s.replicas is %v, less than minReplicas %v" $name $group.replicas $group.minReplicas) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The pods have room for the processes, as many pods as there may be: more than `replicas` only with autoscaling. */}}
{{- define "expertmesh.checkPlaces" -}}
{{- $places := dict "fronts" 0 "routers" 0 "shards" 0 -}}
{{- $share := .Values.config.cluster.gpus_per_process | default 1.0 -}}
{{- range $name, $group := include "expertmesh.groups" . | fromYaml -}}
{{- $pods := $.Values.autoscaling.enabled | ternary $group.maxReplicas $group.replicas -}}
{{- range $kind := list "fronts" "routers" "shards" -}}
{{- $_ := set $places $kind (add (get $places $kind) (mul (get $group $kind) $pods)) -}}
{{- end -}}
{{- if and (eq $.Values.config.model.device "cuda") (gt (mulf (add $group.routers $group.shards) $share) (float64 $group.gpus)) -}}
{{- fail (printf "workers.%s.gpus is %v, its routers and shards need %v" $name $group.gpus (mulf (add $group.routers $group.shards) $share)) -}}
{{- end -}}
{{- end -}}
{{- $wanted := dict "fronts" (.Values.config.cluster.fronts | default 1) "routers" .Values.config.cluster.routers "shards" .Values.config.experts.shards -}}
{{- $keys := dict "fronts" "config.cluster.fronts" "routers" "config.cluster.routers" "shards" "config.experts.shards" -}}
{{- range $kind, $number := $wanted -}}
{{- if lt (int (get $places $kind)) (int $number) -}}
{{- fail (printf "workers.*.%s: there is room for %d, but %s needs %d" $kind (int (get $places $kind)) (get $keys $kind) (int $number)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Copies of an expert are on different shards. */}}
{{- define "expertmesh.checkCopies" -}}
{{- $shards := int .Values.config.experts.shards -}}
{{- if gt (int (.Values.config.experts.copies | default 1)) $shards -}}
{{- fail (printf "config.experts.copies is %d, more than config.experts.shards %d" (int .Values.config.experts.copies) $shards) -}}
{{- end -}}
{{- end -}}

{{/* Ray's own ports by number, and what each is. The last two are its head's metrics. */}}
{{- define "expertmesh.rayPorts" -}}
{{- $ports := dict "6379" "gcs" "8265" "dashboard" "10001" "client" "44217" "autoscaler metrics" "44227" "dashboard metrics" -}}
{{- range $param, $port := include "expertmesh.rayStartParams" . | fromYaml -}}
{{- if hasSuffix "-port" $param -}}{{- $_ := set $ports $port (trimSuffix "-port" $param) -}}{{- end -}}
{{- end -}}
{{- toYaml $ports -}}
{{- end -}}

{{/* The Front's ports, Ray's and those that the data plane takes as it likes are apart. */}}
{{- define "expertmesh.checkPorts" -}}
{{- $first := int .Values.ports.dataPlane.first -}}
{{- $last := int .Values.ports.dataPlane.last -}}
{{- if gt $first $last -}}
{{- fail (printf "ports.dataPlane.first is %d, more than ports.dataPlane.last %d" $first $last) -}}
{{- end -}}
{{- $taken := include "expertmesh.rayPorts" . | fromYaml -}}
{{- $workers := include "expertmesh.rayStartParams" . | fromYaml -}}
{{- $least := int (get $workers "min-worker-port") -}}
{{- $most := int (get $workers "max-worker-port") -}}
{{- range $port, $what := $taken -}}
{{- if and (ge (int $port) $first) (le (int $port) $last) -}}
{{- fail (printf "ports.dataPlane is %d to %d, which holds %s, Ray's %s port: move it" $first $last $port $what) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "grpc" "metrics" "http" -}}
{{- $port := int (get $.Values.ports $name) -}}
{{- if and (ge $port $first) (le $port $last) -}}
{{- fail (printf "ports.%s is %d, inside ports.dataPlane %d to %d: move one of them" $name $port $first $last) -}}
{{- end -}}
{{- if and (ge $port $least) (le $port $most) -}}
{{- fail (printf "ports.%s is %d, but Ray's workers take %d to %d: take another" $name $port $least $most) -}}
{{- end -}}
{{- with get $taken (toString $port) -}}
{{- fail (printf "ports.%s is %d, which is Ray's %s port: take another" $name $port .) -}}
{{- end -}}
{{- end -}}
{{- range $pair := list (list "grpc" "metrics") (list "grpc" "http") (list "metrics" "http") -}}
{{- $port := int (get $.Values.ports (first $pair)) -}}
{{- if eq $port (int (get $.Values.ports (last $pair))) -}}
{{- fail (printf "ports.%s and ports.%s are both %d: take another for one of them" (first $pair) (last $pair) $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a group adds to its pods leaves alone what the chart, KubeRay and Kubernetes rely on. */}}
{{- define "expertmesh.checkPods" -}}
{{- $groups := include "expertmesh.groups" . | fromYaml -}}
{{- if hasKey $groups "head" -}}
{{- fail "workers.head: so the pod of Ray's head is called: take another name" -}}
{{- end -}}
{{- range $name, $group := merge (dict "head" (include "expertmesh.head" . | fromYaml)) $groups -}}
{{- $where := eq $name "head" | ternary "head" (printf "workers.%s" $name) -}}
{{- range $kind := list "labels" "annotations" -}}
{{- range $key, $_ := get $group $kind -}}
{{- if or (hasPrefix "expertmesh.io/" $key) (hasPrefix "ray.io/" $key) -}}
{{- fail (printf "%s.%s or pods.%s sets %s: those of expertmesh.io and ray.io are set for you" $where $kind $kind $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $volumes := list "secret" "tmp" "checkpoint" "tls" "tokens" "shared-mem" "ray-logs" -}}
{{- range $volume := $group.volumes -}}
{{- if has $volume.name $volumes -}}
{{- fail (printf "%s.volumes or pods.volumes names %s, which is there already: take another name" $where $volume.name) -}}
{{- end -}}
{{- $volumes = append $volumes $volume.name -}}
{{- end -}}
{{- $paths := list "/tmp" "/checkpoint" "/etc/expertmesh/secret" "/etc/expertmesh/tls" "/etc/expertmesh/tokens" -}}
{{- range $mount := $group.volumeMounts -}}
{{- if has (clean $mount.mountPath) $paths -}}
{{- fail (printf "%s.volumeMounts or pods.volumeMounts has %s, which is mounted already: take another mountPath" $where $mount.mountPath) -}}
{{- end -}}
{{- $paths = append $paths (clean $mount.mountPath) -}}
{{- if not (has $mount.name $volumes) -}}
{{- fail (printf "%s.volumeMounts or pods.volumeMounts names %s, which is no volume: add it to volumes" $where $mount.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Kubernetes takes a load balancer's fields of no other Service. */}}
{{- define "expertmesh.checkServices" -}}
{{- range $where, $service := dict "service" .Values.service "http.service" .Values.http.service -}}
{{- if and (ne $service.type "LoadBalancer") (or $service.loadBalancerClass $service.loadBalancerSourceRanges) -}}
{{- fail (printf "%s.type is %s, but loadBalancerClass and loadBalancerSourceRanges need LoadBalancer" $where $service.type) -}}
{{- end -}}
{{- range $label, $_ := $service.labels -}}
{{- if hasKey (include "expertmesh.labels" $ | fromYaml) $label -}}
{{- fail (printf "%s.labels sets %s, which is set for you: take another" $where $label) -}}
{{- end -}}
{{- if hasPrefix "expertmesh.io/" $label -}}
{{- fail (printf "%s.labels sets %s: labels of expertmesh.io are set for you" $where $label) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $service.type "ClusterIP") $service.externalTrafficPolicy -}}
{{- fail (printf "%s.type is ClusterIP, but externalTrafficPolicy needs NodePort or LoadBalancer" $where) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A choice that needs another. */}}
{{- define "expertmesh.checkChoices" -}}
{{- if and .Values.gcsFaultTolerance.enabled (not .Values.gcsFaultTolerance.redisAddress) -}}
{{- fail "gcsFaultTolerance.redisAddress is empty, but gcsFaultTolerance.enabled needs it" -}}
{{- end -}}
{{- if not (or .Values.tokens.enabled .Values.tokens.allowUnauthenticated) -}}
{{- fail "tokens.enabled is false: enable it, or let everyone who reaches the port use the model with tokens.allowUnauthenticated" -}}
{{- end -}}
{{- if and .Values.tls.enabled (not .Values.tls.existingSecret) (not .Values.tls.certManager.enabled) -}}
{{- fail "tls.existingSecret is empty and tls.certManager.enabled is false, but tls.enabled needs one of them" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name is empty, but tls.certManager.enabled needs it" -}}
{{- end -}}
{{- if and .Values.tokens.enabled .Values.tokens.allowUnauthenticated -}}
{{- fail "tokens.allowUnauthenticated is true, but tokens.enabled is true, too: set tokens.enabled to false to let everyone who reaches the port use the model" -}}
{{- end -}}
{{- if and (eq .Values.checkpoint.type "hostPath") (not .Values.checkpoint.hostPath) -}}
{{- fail "checkpoint.hostPath is empty, but checkpoint.type is hostPath" -}}
{{- end -}}
{{- if and (eq .Values.checkpoint.type "init") (not (and .Values.checkpoint.init.image .Values.checkpoint.init.command)) -}}
{{- fail "checkpoint.init.image and checkpoint.init.command must be given, since checkpoint.type is init" -}}
{{- end -}}
{{- end -}}
