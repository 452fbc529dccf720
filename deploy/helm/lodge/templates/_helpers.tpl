{{- define "lodge.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "lodge.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lodge.labels" -}}
{{ include "lodge.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Keeps state where the chart says, unless the configuration does. */}}
{{- define "lodge.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $state := default dict (get $config "state") -}}
{{- if not (hasKey $state "path") -}}
{{- $_ := set $state "path" (ternary "/data/state.db" "memory" .Values.state.persistence.enabled) -}}
{{- end -}}
{{- $_ := set $config "state" $state -}}
{{- /* Keys without a section stand above all sections. */ -}}
{{- range $key, $value := $config -}}
{{- if not (kindIs "map" $value) }}
{{ $key }} = {{ $value | toString | toJson }}
{{- end -}}
{{- end -}}
{{- range $name, $section := $config -}}
{{- if kindIs "map" $section }}

[{{ $name }}]
{{- range $key, $value := $section }}
{{ $key }} = {{ $value | toString | toJson }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
