package main

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"net/http"
	"net/http/pprof"
	"net/url"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/version"
)

// webFlags are the flags of the web server, in the words of Prometheus.
type webFlags struct {
	listenAddress string
	configFile    string
	telemetryPath string
	externalURL   string
	routePrefix   string
	pprof         bool
}

func (w *webFlags) add(cmd *kingpin.CmdClause) {
	cmd.Flag("web.listen-address", "Address to listen on.").Default(defaultListenAddress).StringVar(&w.listenAddress)
	cmd.Flag("web.config.file", "File with TLS and authentication settings, as all of Prometheus' exporters take it.").StringVar(&w.configFile)
	cmd.Flag("web.telemetry-path", "Path of the metrics.").Default("/metrics").StringVar(&w.telemetryPath)
	cmd.Flag("web.external-url", "URL under which others reach this exporter.").StringVar(&w.externalURL)
	cmd.Flag("web.route-prefix", "Prefix of all paths; default is the path of --web.external-url.").StringVar(&w.routePrefix)
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
	mux.Handle("GET "+prefix+w.telemetryPath, promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{
		Registry: d.registry, EnableOpenMetrics: true, MaxRequestsInFlight: 10, Timeout: 30 * time.Second,
	}))
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

var landingPage = template.Must(template.New("landing").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>fail2ban-loki-exporter</title>
<style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1f2430;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ddd;vertical-align:top}
.ok{color:#1a7f37}.bad{color:#b3261e}code{background:#f3f4f6;padding:0 .25rem}
@media(prefers-color-scheme:dark){body{background:#16181d;color:#d8dae0}th,td{border-color:#333}code{background:#22252c}.ok{color:#56d364}.bad{color:#ff7b72}}</style></head>
<body><h1>fail2ban-loki-exporter</h1>
<p>What fail2ban's logs in Loki truly say: real bans, restores, gaps, repeat offenders. Version {{.Version}}.</p>
<h2>Sources</h2><table><tr><th>source</th><th>state</th><th>read up to (UTC)</th><th>hosts</th><th>lines</th></tr>
{{range .Sources}}<tr><td>{{.Name}}</td><td class="{{.Class}}">{{.State}}</td><td>{{.Cursor}}</td><td>{{.Hosts}}</td><td>{{.Lines}}</td></tr>
{{end}}</table>
<h2>Links</h2><ul>
<li><a href="{{.Prefix}}{{.Metrics}}">{{.Metrics}}</a>: the metrics</li>
<li><a href="{{.Prefix}}/-/healthy">/-/healthy</a>: does it run</li>
<li><a href="{{.Prefix}}/-/ready">/-/ready</a>: has it caught up with Loki</li>
</ul>
<p>The findings are in Loki under <code>{job="fail2ban-loki-exporter"}</code>.</p>
</body></html>
`))

type landingSource struct {
	Name, Class, State, Cursor string
	Hosts                      int
	Lines                      uint64
}

func (d *daemon) landing(rw http.ResponseWriter, prefix string, w *webFlags) {
	var sources []landingSource
	d.mu.Lock()
	for _, s := range d.status {
		l := landingSource{Name: s.Source, Class: "ok", State: "caught up", Hosts: len(s.Report.Hosts), Lines: s.Lines}
		if !s.Cursor.IsZero() {
			l.Cursor = s.Cursor.UTC().Format("2006-01-02 15:04:05")
		}
		switch {
		case s.Err != nil:
			l.Class, l.State = "bad", s.Err.Error()
		case !s.CaughtUp:
			l.State = "reading the past"
		}
		sources = append(sources, l)
	}
	d.mu.Unlock()
	var b bytes.Buffer
	err := landingPage.Execute(&b, struct {
		Version, Prefix, Metrics string
		Sources                  []landingSource
	}{cmp.Or(version.Version, "not known (built without make)"), prefix, w.telemetryPath, sources})
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = rw.Write(b.Bytes())
}
