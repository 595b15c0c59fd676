package lab

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"slices"
	"text/template"
)

// LokiOptions say how a Loki differs from one that takes all it is given.
type LokiOptions struct {
	Auth     bool              // requests must name a tenant
	Cache    bool              // results are cached
	Limits   map[string]string // further keys of limits_config, as YAML values
	Message  int               // the largest message among its parts, in bytes; 4 MiB when 0
	Dir      string            // where it keeps its data; a temporary folder when empty
	Progress io.Writer         // told when the build takes long
}

// lokiConfig is a single Loki that is ready within a second and takes, and
// shows, lines of any age.
//
//   - min_ready_duration and the scheduler's fixed address: without them it is
//     ready after 15 s, or says so before it answers queries.
//   - query_store_max_look_back_period: with its default, lines older than 2h41m
//     stay invisible until their chunk is flushed.
//   - query_ingesters_within: with its default, an hour that ended more than
//     three ago is looked for in flushed chunks only.
var lokiConfig = template.Must(template.New("loki").Parse(`auth_enabled: {{.Auth}}
server:
  http_listen_address: {{.HTTP.Host}}
  http_listen_port: {{.HTTP.Port}}
  grpc_listen_address: {{.GRPC.Host}}
  grpc_listen_port: {{.GRPC.Port}}
{{- if .Message}}
  grpc_server_max_recv_msg_size: {{.Message}}
  grpc_server_max_send_msg_size: {{.Message}}
{{- end}}
  log_level: warn
common:
  instance_addr: 127.0.0.1
  path_prefix: ./data
  storage:
    filesystem:
      chunks_directory: ./data/chunks
      rules_directory: ./data/rules
  replication_factor: 1
  ring:
    instance_addr: 127.0.0.1
    kvstore:
      store: inmemory
schema_config:
  configs:
    - from: 2000-01-01
      store: tsdb
      object_store: filesystem
      schema: v13
      index:
        prefix: index_
        period: 24h
analytics:
  reporting_enabled: false
ingester:
  query_store_max_look_back_period: 438000h
  lifecycler:
    min_ready_duration: 0s
    final_sleep: 0s
query_scheduler:
  use_scheduler_ring: false
querier:
  multi_tenant_queries_enabled: true
  query_ingesters_within: 0s
query_range:
  cache_results: {{.Cache}}
frontend:
  scheduler_address: {{.GRPC.Address}}
  scheduler_dns_lookup_period: 200ms
frontend_worker:
  scheduler_address: {{.GRPC.Address}}
  dns_lookup_duration: 200ms
limits_config:
{{- range .Limits}}
  {{.}}
{{- end}}
`))

var lokiLimits = map[string]string{
	"allow_structured_metadata":   "true",
	"ingestion_burst_size_mb":     "128",
	"ingestion_rate_mb":           "64",
	"max_query_length":            "0",
	"per_stream_rate_limit":       "64MB",
	"per_stream_rate_limit_burst": "128MB",
	"reject_old_samples":          "false",
	"unordered_writes":            "true",
}

type address struct{ Address, Host, Port string }

func splitAddress(a string) address {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		panic(err) // FreeAddress made it
	}
	return address{a, host, port}
}

// StartLoki builds Loki if need be and starts it.
func StartLoki(ctx context.Context, o LokiOptions) (*Server, error) {
	bin, err := Build(ctx, "loki", o.Progress)
	if err != nil {
		return nil, err
	}
	limits := maps.Clone(lokiLimits)
	maps.Copy(limits, o.Limits)
	var rows []string
	for _, key := range slices.Sorted(maps.Keys(limits)) {
		rows = append(rows, key+": "+limits[key])
	}
	return startOnFreePorts(2, func(addrs []string) (*Server, error) {
		config, err := execute(lokiConfig, struct {
			Auth       bool
			Cache      bool
			HTTP, GRPC address
			Limits     []string
			Message    int
		}{o.Auth, o.Cache, splitAddress(addrs[0]), splitAddress(addrs[1]), rows, o.Message})
		if err != nil {
			return nil, err
		}
		return Start(ctx, Command{
			Name:  "loki",
			Path:  bin,
			Args:  []string{"-config.file=loki.yaml"},
			Files: map[string][]byte{"loki.yaml": config},
			Dir:   o.Dir,
			URL:   "http://" + addrs[0],
			Ready: "/ready",
		})
	})
}

// PrometheusOptions say what Prometheus scrapes.
type PrometheusOptions struct {
	Targets        map[string]string // job: host:port
	ScrapeInterval string            // 1s when empty
	Relabel        string            // YAML of metric_relabel_configs, indented by six spaces
	Native         bool              // native histograms are scraped
	Dir            string            // where it keeps its data; a temporary folder when empty
	Progress       io.Writer         // told when the build takes long
}

var prometheusConfig = template.Must(template.New("prometheus").Parse(`global:
  scrape_interval: {{.Interval}}
  scrape_timeout: {{.Interval}}
  evaluation_interval: {{.Interval}}
  scrape_native_histograms: {{.Native}}
storage:
  tsdb:
    out_of_order_time_window: 30d
scrape_configs:
{{- range $job, $target := .Targets}}
  - job_name: {{$job}}
    static_configs:
      - targets: ["{{$target}}"]
{{- if $.Relabel}}
    metric_relabel_configs:
{{$.Relabel}}
{{- end}}
{{- end}}
`))

// StartPrometheus builds Prometheus if need be and starts it.
func StartPrometheus(ctx context.Context, o PrometheusOptions) (*Server, error) {
	bin, err := Build(ctx, "prometheus", o.Progress)
	if err != nil {
		return nil, err
	}
	if o.ScrapeInterval == "" {
		o.ScrapeInterval = "1s"
	}
	config, err := execute(prometheusConfig, struct {
		Interval, Relabel string
		Native            bool
		Targets           map[string]string
	}{o.ScrapeInterval, o.Relabel, o.Native, o.Targets})
	if err != nil {
		return nil, err
	}
	return Serve(ctx, func(addr string) Command {
		return Command{
			Name: "prometheus",
			Path: bin,
			Args: []string{
				"--config.file=prometheus.yaml",
				"--storage.tsdb.path=data",
				"--web.listen-address=" + addr,
				"--web.enable-remote-write-receiver",
				"--log.level=warn",
			},
			Files: map[string][]byte{"prometheus.yaml": config},
			Dir:   o.Dir,
			URL:   "http://" + addr,
			Ready: "/-/ready",
		}
	})
}

func execute(t *template.Template, data any) ([]byte, error) {
	var b bytes.Buffer
	err := t.Execute(&b, data)
	return b.Bytes(), err
}
