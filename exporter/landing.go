package main

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/publish"

	"github.com/prometheus/common/version"
)

// landingPage is what a person sees. It needs nothing from elsewhere and runs
// no script, which its header forbids anyway.
var landingPage = template.Must(template.New("landing").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>fail2ban-loki-exporter</title>
<style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1f2430;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ddd;vertical-align:top;overflow-wrap:anywhere}
td.n{text-align:right}.ok{color:#1a7f37}.bad{color:#b3261e}code{background:#f3f4f6;padding:0 .25rem}
@media(prefers-color-scheme:dark){body{background:#16181d;color:#d8dae0}th,td{border-color:#333}code{background:#22252c}.ok{color:#56d364}.bad{color:#ff7b72}a{color:#79b8ff}}</style></head>
<body><h1>fail2ban-loki-exporter</h1>
<p>What fail2ban's logs in Loki truly say: real bans, restores, gaps, repeat offenders. Version {{.Version}}.</p>
<h2>Health</h2><table><tr><th>part</th><th>state</th><th>what it knows</th></tr>
{{range .Parts}}<tr><td>{{.Name}}</td><td class="{{.Class}}">{{.State}}</td><td>{{.Detail}}</td></tr>
{{end}}</table>
{{if .Offenders}}<h2>Top offenders</h2><table><tr><th>rank</th><th>id</th><th>score</th><th>bans</th><th>restores</th><th>hosts</th><th>last ban (UTC)</th><th>banned now</th></tr>
{{range .Offenders}}<tr><td>{{.Rank}}</td><td>{{.ID}}</td><td>{{.Score}}</td><td>{{.Bans}}</td><td>{{.Restores}}</td><td>{{.Hosts}}</td><td>{{.LastBan}}</td><td>{{.Where}}</td></tr>
{{end}}</table>{{end}}
<h2>Links</h2><ul>
<li><a href="{{.Prefix}}{{.Metrics}}">{{.Metrics}}</a>: the metrics</li>
<li><a href="{{.Prefix}}/api/v1/offenders">/api/v1/offenders</a>, <a href="{{.Prefix}}/api/v1/restores">/api/v1/restores</a>: the same as JSON</li>
<li><a href="{{.Prefix}}/api/v1/blocklist?min_score=50">/api/v1/blocklist</a>: the ranking as firewalls take it</li>
<li><a href="{{.Prefix}}/-/healthy">/-/healthy</a>: does it run</li>
<li><a href="{{.Prefix}}/-/ready">/-/ready</a>: has it caught up with Loki</li>
{{if .Pprof}}<li><a href="{{.Prefix}}/debug/pprof/">/debug/pprof/</a>: profiles</li>
{{end}}</ul>
<p>The findings are in Loki under <code>{job="fail2ban-loki-exporter"}</code>.</p>
</body></html>
`))

// part is one part of the exporter, with its health.
type part struct{ Name, Class, State, Detail string }

func healthy(name, state, detail string) part { return part{name, "ok", state, detail} }

func ill(name string, err error, detail string) part {
	return part{name, "bad", publish.Visible(err.Error()), detail}
}

// landingOffender is a row of the ranking, as text.
type landingOffender struct {
	Rank, Bans, Restores, Hosts int
	ID, Score, LastBan, Where   string
}

const (
	landingTime = "2006-01-02 15:04:05"
	landingTop  = 10
)

func (d *daemon) landing(rw http.ResponseWriter, prefix string, w *webFlags) {
	var b bytes.Buffer
	err := landingPage.Execute(&b, struct {
		Version, Prefix, Metrics string
		Pprof                    bool
		Parts                    []part
		Offenders                []landingOffender
	}{cmp.Or(version.Version, "not known (built without make)"), prefix, w.telemetryPath, w.pprof, d.parts(), d.landingOffenders()})
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	h := rw.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = rw.Write(b.Bytes())
}

// parts tells how each part is.
func (d *daemon) parts() []part {
	out := d.sourceParts()
	for i, s := range d.sinks {
		name := "findings to " + config.ShownURL(d.cfg.Clients[i].URL)
		waiting, err := s.State()
		detail := strconv.Itoa(waiting) + " findings wait"
		if err != nil {
			out = append(out, ill(name, err, detail))
			continue
		}
		out = append(out, healthy(name, "taken", detail))
	}
	out = append(out, d.remoteParts()...)
	if d.origins != nil {
		for _, f := range d.origins.States() {
			name, detail := f.What+" file", f.Path
			if !f.Built.IsZero() {
				detail += fmt.Sprintf(", %s of %s", f.Type, f.Built.Format(time.DateOnly))
			}
			if f.Err != nil {
				out = append(out, ill(name, f.Err, detail))
				continue
			}
			out = append(out, healthy(name, "read", publish.Visible(detail)))
		}
	}
	if d.cfg.State.Path == "" {
		return append(out, healthy("state file", "none", "each start reads the look-back again; see state.path"))
	}
	return append(out, d.statePart())
}

func (d *daemon) sourceParts() (out []part) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.status {
		s := &d.status[i]
		name, detail := "source "+d.cfg.Sources[i].Name, fmt.Sprintf("%d hosts, %d lines", len(s.Report.Hosts), s.Lines)
		if !s.Cursor.IsZero() {
			detail += ", read up to " + s.Cursor.UTC().Format(landingTime) + " UTC"
		}
		switch {
		case s.Err != nil:
			out = append(out, ill(name, s.Err, detail))
		case s.Rebuilding:
			out = append(out, healthy(name, "reading the past again: lines came too late", detail))
		case !s.CaughtUp:
			out = append(out, healthy(name, "reading the past", detail))
		default:
			out = append(out, healthy(name, "caught up", detail))
		}
	}
	return out
}

// statePart tells what became of the last save.
func (d *daemon) statePart() part {
	const name = "state file"
	last := d.save.Load()
	switch {
	case last == nil:
		return healthy(name, "not saved yet", d.cfg.State.Path)
	case last.err != nil:
		return ill(name, last.err, d.cfg.State.Path)
	}
	return healthy(name, "saved", d.cfg.State.Path+", "+last.at.UTC().Format(landingTime)+" UTC")
}

// lastSave is what became of the last save of the state.
type lastSave struct {
	at  time.Time
	err error
}

// landingOffenders are the first of the ranking, where ids may be shown.
func (d *daemon) landingOffenders() (out []landingOffender) {
	v := d.api.Load()
	if v == nil || d.cfg.Privacy.API != config.Plain {
		return nil
	}
	for i := range v.rows[:min(len(v.rows), landingTop)] {
		o := &v.rows[i]
		row := landingOffender{
			Rank: o.Rank, ID: publish.Visible(o.ID), Score: strconv.FormatFloat(o.Score, 'f', 1, 64),
			Bans: o.Bans, Restores: o.Restores, Hosts: o.Hosts, Where: "no",
		}
		if !o.LastBan.IsZero() {
			row.LastBan = o.LastBan.UTC().Format(landingTime)
		}
		if n := len(o.BannedWhere); n > 0 {
			row.Where = fmt.Sprintf("in %d jails", n)
		}
		out = append(out, row)
	}
	return out
}
