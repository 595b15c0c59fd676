package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grafana/loki/v3/pkg/logproto"
	"github.com/klauspost/compress/snappy"

	"fail2ban-loki-exporter/exporter/internal/publish"
)

// fakeLoki answers queries from the lines of hosts and keeps what is pushed.
type fakeLoki struct {
	mu      sync.Mutex
	streams map[string][]fakeLine // by host, by time
	pushed  []logproto.PushRequest
}

type fakeLine struct {
	ns   int64
	text string
}

func (f *fakeLoki) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "/push") {
		body, _ := io.ReadAll(r.Body)
		raw, err := snappy.Decode(nil, body)
		var req logproto.PushRequest
		if err != nil || req.Unmarshal(raw) != nil {
			http.Error(w, "cannot read it", http.StatusUnsupportedMediaType)
			return
		}
		f.pushed = append(f.pushed, req)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	q := r.URL.Query()
	limit, _ := strconv.Atoi(q.Get("limit"))
	start, _ := strconv.ParseInt(q.Get("start"), 10, 64)
	end, _ := strconv.ParseInt(q.Get("end"), 10, 64)
	type hit struct {
		fakeLine
		host string
	}
	var hits []hit
	for host, lines := range f.streams {
		for _, l := range lines {
			if l.ns >= start && l.ns < end {
				hits = append(hits, hit{l, host})
			}
		}
	}
	slices.SortStableFunc(hits, func(a, b hit) int { return int(a.ns - b.ns) })
	if len(hits) > limit {
		hits = hits[:limit]
	}
	values := map[string][]any{}
	for _, h := range hits {
		values[h.host] = append(values[h.host], []string{strconv.FormatInt(h.ns, 10), h.text})
	}
	result := []any{}
	for host, v := range values {
		result = append(result, map[string]any{"stream": map[string]string{"host": host, "job": "fail2ban"}, "values": v})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "streams", "result": result}})
}

var stamps = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)

// lokiOf is a Loki that holds the logs of hosts, moved such that the newest
// line of all is some seconds old. Lines of one millisecond keep their order.
func lokiOf(t *testing.T, logs map[string]string) *fakeLoki {
	t.Helper()
	var newest time.Time
	for _, text := range logs {
		for line := range strings.Lines(text) {
			if at, err := time.Parse(time.DateTime, line[:min(len(line), len(time.DateTime))]); err == nil && at.After(newest) {
				newest = at
			}
		}
	}
	by := time.Now().UTC().Add(-5 * time.Second).Truncate(time.Second).Sub(newest)
	f := &fakeLoki{streams: map[string][]fakeLine{}}
	for host, text := range logs {
		var last int64
		for line := range strings.Lines(text) {
			line = stamps.ReplaceAllStringFunc(strings.TrimRight(line, "\n"), func(s string) string {
				at, _ := time.Parse(time.DateTime, s)
				return at.Add(by).Format(time.DateTime)
			})
			if len(line) < 23 {
				continue
			}
			at, err := time.Parse("2006-01-02 15:04:05,000", line[:23])
			if err != nil {
				continue // output of an action
			}
			last = max(last+1, at.UnixNano())
			f.streams[host] = append(f.streams[host], fakeLine{last, line})
		}
	}
	return f
}

// rowsOf is what `report KIND` says, by column.
func rowsOf(t *testing.T, config, kind string) (rows []map[string]string) {
	t.Helper()
	c := call(t, "", "report", kind, "--format", "csv", "--top", "100000", "--config.file", config)
	if c.code != exitDone {
		t.Fatalf("report %s: %+v", kind, c)
	}
	cells, err := csv.NewReader(strings.NewReader(c.out)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range cells[1:] {
		m := map[string]string{}
		for i, name := range cells[0] {
			m[name] = row[i]
		}
		rows = append(rows, m)
	}
	return rows
}

// metricsOf are the series of a daemon that has read all, by name and labels.
func metricsOf(t *testing.T, d *daemon) map[string]float64 {
	t.Helper()
	families, err := publish.Join(d.registry, d.metrics).Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			out[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// logfmt reads the pairs of a finding; no value of the recordings is quoted
// that the test looks at.
func logfmt(line string) map[string]string {
	out := map[string]string{}
	for pair := range strings.FieldsSeq(line) {
		if k, v, ok := strings.Cut(pair, "="); ok {
			out[k] = v
		}
	}
	return out
}

// The same log gives the same numbers wherever they are shown: in the rows of
// reports, in the metrics, and in the findings that were pushed.
func TestNumbersAgree(t *testing.T) {
	type world = []map[string]string // for each source the logs by host
	worlds := map[string]world{}
	for _, name := range []string{"soak", "clean-restart", "crash-kill9", "increment", "recidive", "gap-attack", "reread", "permanent", "nodb", "lifecycle-0.9.7", "manual-unban"} {
		worlds[name] = world{{"web-1": recording(t, name)}}
	}
	// Recordings end with a stop: cut, they end with bans in force, or in the
	// midst of a restart.
	for part, where := range map[int]string{30: "ban", 45: "restart", 60: "ban", 75: "restart", 90: "ban"} {
		text := recording(t, "soak")
		worlds[fmt.Sprintf("soak cut in a %s at %d %%", where, part)] = world{{"web-1": text[:strings.LastIndexByte(text[:len(text)*part/100], '\n')+1]}}
	}
	fleet := map[string]string{}
	for _, host := range []string{"bastion", "web-1", "web-2"} {
		fleet[host] = recording(t, "multihost/"+host)
	}
	worlds["multihost"] = world{fleet}
	worlds["two sources with the same hosts"] = world{fleet, {"web-1": fleet["web-2"], "bastion": fleet["bastion"]}}
	for name, w := range worlds {
		t.Run(name, func(t *testing.T) { agree(t, w) })
	}
}

func recording(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(recordings + name + "/fail2ban.log")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func agree(t *testing.T, sources []map[string]string) {
	var lokis []*fakeLoki
	text := "sources:\n"
	for i, logs := range sources {
		f := lokiOf(t, logs)
		server := httptest.NewServer(f)
		t.Cleanup(server.Close)
		lokis = append(lokis, f)
		text += fmt.Sprintf("  - {name: s%d, url: '%s', timezone: UTC, lookback: 1h}\n", i, server.URL)
		if i == len(sources)-1 {
			text += fmt.Sprintf("clients: [{url: '%s'}]\n", server.URL)
		}
	}
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte(text+originFile(t, atlas...)+"metrics: {top_offenders: 100000, top_networks: 100000}\napi: {max_offenders: 100000, max_restores: 100000}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig(&common{configFile: config})
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDaemon(cfg, slog.New(slog.DiscardHandler), true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if err := d.follow(context.Background()); err != nil {
		t.Fatal(err)
	}
	metrics := metricsOf(t, d)
	said := findingsOf(lokis)
	same := func(what string, got float64, want string) {
		t.Helper()
		w, err := strconv.ParseFloat(want, 64)
		if err != nil || math.Abs(got-w) > 0.002 { // the daemon ranks some seconds later, and reports round
			t.Errorf("%s: %v, the report says %q", what, got, want)
		}
	}

	failed := map[string]int{}
	for _, e := range rowsOf(t, config, "events") {
		if e["event"] == "found" && e["cause"] != "reread" {
			failed[e["id"]]++
		}
	}
	offenders := rowsOf(t, config, "offenders")
	sameRows(t, apiRows(t, d, "offenders?limit=100000"), offenders)
	sameRows(t, apiRows(t, d, "restores?limit=100000"), newestFirst(rowsOf(t, config, "restores")))
	bannedAt := map[string]int{}
	for _, r := range offenders {
		for at := range strings.SplitSeq(r["banned_where"], ";") {
			bannedAt[at]++
		}
	}
	for _, r := range offenders {
		at := "{ip=" + r["id"] + "}"
		same("score of "+r["id"], metrics["fail2ban_offender_score"+at], r["score"])
		same("bans of "+r["id"], metrics["fail2ban_offender_bans"+at], r["bans"])
		same("hosts of "+r["id"], metrics["fail2ban_offender_hosts"+at], r["hosts"])
		same("jails of "+r["id"], metrics["fail2ban_offender_jails"+at], r["jails"])
		same("failures of "+r["id"]+" in events", float64(failed[r["id"]]), r["failures"])
		same("bans of "+r["id"]+" in findings", float64(said["ban "+r["id"]]), r["bans"])
		same("restores of "+r["id"]+" in findings", float64(said["restore "+r["id"]]), r["restores"])
		if _, ok := metrics["fail2ban_offender_info{asn="+r["asn"]+",country="+r["country"]+",ip="+r["id"]+",network="+r["network"]+"}"]; !ok {
			t.Errorf("no info of %s in %q", r["id"], r["network"])
		}
		if bans, _ := strconv.Atoi(r["bans"]); len(sources) == 1 && (said["repeat "+r["id"]] == 1) != (bans >= 2) || len(sources) == 1 && (said["persistent "+r["id"]] == 1) != (bans >= 5) {
			t.Errorf("%s has %d bans and is told %d times as repeat, %d times as persistent", r["id"], bans, said["repeat "+r["id"]], said["persistent "+r["id"]])
		}
	}
	same("offenders", metrics["fail2ban_offenders{}"], strconv.Itoa(len(offenders)))

	if said["a ranking with a host"] > 0 {
		t.Error("the ranking's stream names a host")
	}

	var bans, restores, banned float64 // of all jails that count
	for _, r := range rowsOf(t, config, "jails") {
		at := "{host=" + r["host"] + ",jail=" + r["jail"]
		end := "}"
		if len(sources) > 1 {
			end = ",source=" + r["source"] + "}"
		}
		sum := func(metric, label string, values ...string) (n float64) {
			for _, v := range values {
				key := []string{"host=" + r["host"], "jail=" + r["jail"], label + "=" + v}
				if len(sources) > 1 {
					key = append(key, "source="+r["source"])
				}
				slices.Sort(key)
				n += metrics[metric+"{"+strings.Join(key, ",")+"}"]
			}
			return n
		}
		same("failures of "+at, metrics["fail2ban_failures_total"+at+end], r["failures"])
		same("banned now of "+at, metrics["fail2ban_banned_ips"+at+end], r["banned_now"])
		where := r["host"] + "/" + r["jail"]
		if len(sources) > 1 {
			where = r["source"] + "/" + where
		}
		same("banned now of "+at+" in offenders", float64(bannedAt[where]), r["banned_now"])
		banned += number(r["banned_now"])
		same("re-read bans of "+at, metrics["fail2ban_reread_bans_total"+at+end], r["reread_bans"])
		same("re-offences of "+at, metrics["fail2ban_reoffences_total"+at+end], r["reoffences"])
		same("bans of "+at, sum("fail2ban_bans_total", "origin", "new", "gap", "manual", "unknown"), r["bans"])
		same("restores of "+at, sum("fail2ban_restored_bans_total", "cause", "clean_restart", "crash", "jail_restart", "zombie", "orphan", "unknown"), r["restored_bans"])
		place := r["source"] + "/" + r["host"] + "/" + r["jail"]
		same("bans of "+place+" in findings", float64(said["ban at "+place]), r["bans"])
		same("restores of "+place+" in findings", float64(said["restore at "+place]), r["restored_bans"])
		restores += number(r["restored_bans"])
		if r["jail"] != "recidive" {
			bans += number(r["bans"])
		}
	}
	for _, c := range []struct {
		what string
		want float64
	}{{"bans", bans}, {"restores", restores}} {
		n := 0.0
		for _, r := range offenders {
			n += number(r[c.what])
		}
		if n != c.want {
			t.Errorf("offenders have %v %s, jails %v", n, c.what, c.want)
		}
	}

	if strings.Contains(t.Name(), "cut_in_a_ban") && banned == 0 {
		t.Error("nobody is banned at the cut")
	}
	var ofCountries float64
	for series, n := range metrics {
		if strings.HasPrefix(series, "fail2ban_country_bans_total{") {
			ofCountries += n
		}
	}
	byCountry := map[string]float64{}
	for _, r := range offenders {
		if n := number(r["bans"]); n > 0 {
			byCountry[cmp.Or(r["country"], "unknown")] += n
		}
		if want := said["from "+r["id"]+" "+r["country"]+" "+r["asn"]]; len(sources) == 1 && number(r["bans"]) >= 2 && want == 0 {
			t.Errorf("no finding says that %s is from %s, %s", r["id"], r["country"], r["asn"])
		}
	}
	for country, n := range byCountry {
		same("bans from "+country, metrics["fail2ban_country_bans_total{country="+country+"}"], strconv.FormatFloat(n, 'f', -1, 64))
	}
	if ofCountries != bans {
		t.Errorf("%v bans of countries, %v of jails", ofCountries, bans)
	}

	var ofNetworks float64
	networks := rowsOf(t, config, "networks")
	for _, r := range networks {
		same("score of "+r["network"], metrics["fail2ban_offender_network_score{network="+r["network"]+"}"], r["score"])
		if strings.Contains(r["network"], "/24") || strings.Contains(r["network"], "/48") {
			ofNetworks += number(r["bans"])
		}
	}
	if len(networks) == 0 || ofNetworks > bans {
		t.Errorf("%v bans in %d networks, %v in jails", ofNetworks, len(networks), bans)
	}
	for _, r := range rowsOf(t, config, "returns") {
		at := "{jail=" + r["jail"]
		if len(sources) > 1 {
			at += ",source=" + r["source"]
		}
		for _, within := range []string{"1h", "1d", "7d", "30d"} {
			if share := r["away_"+within]; r["host"] == "*" && r["jail"] != "*" && share != "" {
				same("away for "+within+" of "+at, metrics["fail2ban_reoffence_survival_ratio"+at+",within="+within+"}"], share)
			}
		}
	}
	for _, r := range rowsOf(t, config, "advice") {
		if r["suggested_bantime"] == "" && r["reason"] == "" {
			t.Errorf("no advice, and no reason why: %v", r)
		}
	}
}

// findingsOf counts what was pushed: by kind and id, by kind and place. Of a
// ban it counts the start, which each true ban has.
func findingsOf(lokis []*fakeLoki) map[string]int {
	out := map[string]int{}
	for _, f := range lokis {
		for _, req := range f.pushed {
			for _, stream := range req.Streams {
				for _, e := range stream.Entries {
					l := logfmt(e.Line)
					kind := l["finding"]
					switch {
					case kind == "offender":
						if strings.Contains(stream.Labels, "host=") {
							out["a ranking with a host"]++
						}
						kind = l["state"]
						out["from "+l["id"]+" "+l["country"]+" "+l["asn"]]++
					case kind == "ban" && l["state"] != "open":
						continue
					}
					place := l["source"] + "/" + l["host"] + "/" + l["jail"]
					out[kind+" at "+place]++
					if kind != "ban" || l["jail"] != "recidive" {
						out[kind+" "+l["id"]]++
					}
				}
			}
		}
	}
	return out
}

func number(s string) float64 {
	n, _ := strconv.ParseFloat(s, 64)
	return n
}
