package main

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"net/url"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/publish"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
)

// webFlags are the flags of the web server, in the words of Prometheus.
type webFlags struct {
	listenAddress string
	configFile    string
	telemetryPath string
	externalURL   string
	routePrefix   string
	pprof         bool

	readTimeout    time.Duration
	maxConnections int
}

func (w *webFlags) add(cmd *kingpin.CmdClause) {
	cmd.Flag("web.listen-address", "Address to listen on.").Default(defaultListenAddress).StringVar(&w.listenAddress)
	cmd.Flag("web.config.file", "File with TLS and authentication settings, as all of Prometheus' exporters take it.").StringVar(&w.configFile)
	cmd.Flag("web.telemetry-path", "Path of the metrics.").Default("/metrics").StringVar(&w.telemetryPath)
	cmd.Flag("web.external-url", "URL under which others reach this exporter.").StringVar(&w.externalURL)
	cmd.Flag("web.route-prefix", "Prefix of all paths; default is the path of --web.external-url.").StringVar(&w.routePrefix)
	cmd.Flag("web.read-timeout", "How long a request may take to come, and a connection may be idle.").Default("30s").DurationVar(&w.readTimeout)
	cmd.Flag("web.max-connections", "How many connections there may be at once.").Default("512").IntVar(&w.maxConnections)
	cmd.Flag("web.enable-pprof", "Serve Go's profiles under /debug/pprof/.").BoolVar(&w.pprof)
}

// prefix is the path that all others begin with, without a slash at its end.
func (w *webFlags) prefix() (string, error) {
	p := w.routePrefix
	if p == "" && w.externalURL != "" {
		u, err := url.Parse(w.externalURL)
		if err != nil {
			return "", usageError{fmt.Errorf("--web.external-url: %w", err)}
		}
		p = u.Path
	}
	p = strings.TrimSuffix(p, "/")
	if p != "" && !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	return p, nil
}

// handler serves the daemon's endpoints.
func (d *daemon) handler(w *webFlags) (http.Handler, error) {
	prefix, err := w.prefix()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+prefix+w.telemetryPath, d.metricsHandler())
	mux.HandleFunc("GET "+prefix+"/-/healthy", func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(rw, "OK")
	})
	mux.HandleFunc("GET "+prefix+"/-/ready", func(rw http.ResponseWriter, _ *http.Request) {
		if err := d.ready(); err != nil {
			http.Error(rw, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(rw, "OK")
	})
	mux.HandleFunc("GET "+prefix+"/{$}", func(rw http.ResponseWriter, _ *http.Request) {
		d.landing(rw, prefix, w)
	})
	d.addAPI(mux, prefix)
	if w.pprof {
		mux.HandleFunc(prefix+"/debug/pprof/", pprof.Index)
		mux.HandleFunc(prefix+"/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc(prefix+"/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc(prefix+"/debug/pprof/trace", pprof.Trace)
	}
	return mux, nil
}

// metricsHandler serves the metrics in the form that is asked for. Native
// histograms have a place in protobuf alone. Since when counters count stands in
// protobuf too; in OpenMetrics it takes a line for each counter, which a
// Prometheus stores as a series of its own, so it is for those alone who do not
// understand Prometheus' text: all of its kind name that too. There is no time-out
// but the server's own: one of promhttp would hold the whole page in memory.
func (d *daemon) metricsHandler() http.Handler {
	handler := func(created bool, of prometheus.Gatherer) http.Handler {
		return promhttp.HandlerFor(publish.Join(d.registry, of), promhttp.HandlerOpts{
			Registry: d.registry, EnableOpenMetrics: true, EnableOpenMetricsTextCreatedSamples: created, MaxRequestsInFlight: 10,
		})
	}
	plain, openMetrics, protobuf := handler(false, d.metrics), handler(true, d.metrics), handler(false, d.metrics.Native())
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...).FormatType()
		accept := r.Header.Get("Accept")
		takesText := strings.Contains(accept, "text/plain") || strings.Contains(accept, "*/*")
		switch {
		case format == expfmt.TypeProtoDelim:
			protobuf.ServeHTTP(rw, r)
		case format == expfmt.TypeOpenMetrics && !takesText:
			openMetrics.ServeHTTP(rw, r)
		default:
			plain.ServeHTTP(rw, r)
		}
	})
}
