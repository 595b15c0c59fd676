package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// caughtUp is a daemon that has read a Loki with the logs of hosts.
func caughtUp(t *testing.T, logs map[string]string, sections string) *daemon {
	t.Helper()
	server := httptest.NewServer(lokiOf(t, logs))
	t.Cleanup(server.Close)
	d := daemonOf(t, "sources: [{url: '"+server.URL+"', timezone: UTC, lookback: 1h}]\n"+sections)
	if err := d.follow(context.Background()); err != nil {
		t.Fatal(err)
	}
	return d
}

// daemonOf is a daemon that has read nothing yet.

func daemonOf(t *testing.T, text string) *daemon {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
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
	t.Cleanup(d.close)
	return d
}

// asked is the answer of a daemon to a path.
func asked(t *testing.T, d *daemon, path string) *httptest.ResponseRecorder {
	t.Helper()
	h, err := d.handler(&webFlags{telemetryPath: "/metrics"})
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	return rec
}

// apiRows is what the API says, with values as CSV has them.
func apiRows(t *testing.T, d *daemon, query string) (rows []map[string]string) {
	t.Helper()
	rec := asked(t, d, apiPath+query)
	dec := json.NewDecoder(rec.Body)
	dec.UseNumber()
	var objects []map[string]any
	if err := dec.Decode(&objects); err != nil || rec.Code != http.StatusOK || rec.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%s: status %d: %v", query, rec.Code, err)
	}
	for _, o := range objects {
		row := map[string]string{}
		for k, v := range o {
			if v != nil {
				row[k] = fmt.Sprint(v)
			} else {
				row[k] = ""
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// sameRows demands the same rows; scores were made some seconds apart.
func sameRows(t *testing.T, got, want []map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d rows in the API, %d in the report", len(got), len(want))
	}
	for i := range want {
		for column, w := range want[i] {
			g := got[i][column]
			if x, err := strconv.ParseFloat(g, 64); err == nil && column == "score" && math.Abs(x-number(w)) < 0.002 {
				continue
			}
			if g != w {
				t.Errorf("row %d, %s: %q in the API, %q in the report", i, column, g, w)
			}
		}
		if len(got[i]) != len(want[i]) {
			t.Errorf("row %d: %v and %v", i, got[i], want[i])
		}
	}
}

// newestFirst turns a report's rows, keeping those of one time in their order.
func newestFirst(rows []map[string]string) []map[string]string {
	slices.SortStableFunc(rows, func(a, b map[string]string) int { return strings.Compare(b["time"], a["time"]) })
	return rows
}

func fleetLogs(t *testing.T) map[string]string {
	t.Helper()
	logs := map[string]string{}
	for _, host := range []string{"bastion", "web-1", "web-2"} {
		logs[host] = recording(t, "multihost/"+host)
	}
	return logs
}

func TestAPIParameters(t *testing.T) {
	d := caughtUp(t, fleetLogs(t), "api: {max_restores: 20}\n")
	all := apiRows(t, d, "offenders?limit=5000")
	if usual := apiRows(t, d, "offenders"); len(usual) != min(len(all), defaultLimit) || len(all) < 10 {
		t.Errorf("%d of %d offenders without a limit", len(usual), len(all))
	}
	if n := len(apiRows(t, d, "offenders?limit=3")); n != 3 {
		t.Errorf("%d offenders of 3", n)
	}
	here := 0
	for _, r := range apiRows(t, d, "offenders?host=web-1&jail=sshd&limit=5000") {
		if r["rank"] == "" {
			t.Errorf("a row without its rank in the whole: %v", r)
		}
		here++
	}
	if here == 0 || here >= len(all) {
		t.Errorf("%d of %d offenders at web-1", here, len(all))
	}
	if n := len(apiRows(t, d, "offenders?host=nowhere")); n != 0 {
		t.Errorf("%d offenders nowhere", n)
	}
	if n := len(apiRows(t, d, "offenders?since=now")); n != 0 {
		t.Errorf("%d offenders since now", n)
	}
	restores := apiRows(t, d, "restores")
	if len(restores) != 20 {
		t.Errorf("%d restores of the newest 20", len(restores))
	}
	since := restores[5]["time"]
	for _, r := range apiRows(t, d, "restores?since="+since+"&host="+restores[0]["host"]+"&jail="+restores[0]["jail"]) {
		if r["time"] < since || r["host"] != restores[0]["host"] || r["jail"] != restores[0]["jail"] {
			t.Errorf("not asked for: %v", r)
		}
	}
	for query, want := range map[string]string{
		"offenders?limit=0":              `limit: \"0\"; give a number from 1 to 5000`,
		"offenders?limit=5001":           `limit: \"5001\"; give a number from 1 to 5000`,
		"offenders?limit=ten":            `limit: \"ten\"; give a number from 1 to 5000`,
		"offenders?limit=1&limit=2":      `limit: it is given 2 times`,
		"offenders?host=":                `host: it is empty; leave it away`,
		"offenders?top=3":                `\"top\" is no parameter; there are limit, since, host, jail, source`,
		"restores?limit=21":              `limit: \"21\"; give a number from 1 to 20`,
		"restores?since=yesterday":       `since: \"yesterday\" is no time: give RFC 3339 (2026-11-22T20:00:00Z), now, or now-7d`,
		"restores?since=%zz":             `invalid URL escape \"%zz\"`,
		"blocklist?format=xml":           `format: \"xml\"; give plain, nft, ipset, json`,
		"blocklist?min_score=many":       `min_score: \"many\"; give a number from 0 to 100`,
		"blocklist?min_score=NaN":        `min_score: \"NaN\"; give a number from 0 to 100`,
		"blocklist?limit=3":              `\"limit\" is no parameter; there are format, min_score, top`,
		"blocklist?top=-1":               `top: \"-1\"; give a number from 1 to 5000`,
		"offenders?limit=<script>x</s>":  `limit: \"\u003cscript\u003ex\u003c/s\u003e\"; give a number from 1 to 5000`,
		"offenders?limit=%0a%1b[31mred":  `limit: \"\\n\\x1b[31mred\"; give a number from 1 to 5000`,
		"offenders?host=web-1;jail=sshd": `invalid semicolon separator in query`,
	} {
		rec := asked(t, d, apiPath+query)
		if rec.Code != http.StatusBadRequest || strings.TrimSpace(rec.Body.String()) != `{"error":"`+want+`"}` {
			t.Errorf("%s: status %d, %s", query, rec.Code, rec.Body)
		}
	}
}

// Before the past has been read there is nothing to say.
func TestAPINotReady(t *testing.T) {
	d := daemonOf(t, "sources: [{}]\n")
	for _, name := range []string{"offenders", "restores", "blocklist"} {
		if rec := asked(t, d, apiPath+name); rec.Code != http.StatusServiceUnavailable || !strings.Contains(rec.Body.String(), "not ready") {
			t.Errorf("%s: status %d, %s", name, rec.Code, rec.Body)
		}
	}
}

func TestAPICompresses(t *testing.T) {
	d := caughtUp(t, fleetLogs(t), "")
	h, err := d.handler(&webFlags{telemetryPath: "/metrics"})
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest(http.MethodGet, apiPath+"offenders?limit=50", nil)
	req.Header.Set("Accept-Encoding", "gzip")
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	r, err := gzip.NewReader(rec.Body)
	if err != nil || rec.Header().Get("Content-Encoding") != "gzip" {
		t.Fatalf("%v: %v", rec.Header(), err)
	}
	body, err := io.ReadAll(r)
	if err != nil || !json.Valid(body) {
		t.Errorf("%v: %.200s", err, body)
	}
}

// hostile is a log whose ids are what attackers would like to see somewhere.
func hostile(ids ...string) string {
	var b strings.Builder
	b.WriteString("2026-11-22 20:00:00,000 fail2ban.server         [1]: INFO    Starting Fail2ban v1.1.0\n")
	b.WriteString("2026-11-22 20:00:00,001 fail2ban.jail           [1]: INFO    Creating new jail 'sshd'\n")
	b.WriteString("2026-11-22 20:00:00,002 fail2ban.jail           [1]: INFO    Jail 'sshd' started\n")
	for i, id := range ids {
		fmt.Fprintf(&b, "2026-11-22 20:00:%02d,000 fail2ban.filter         [1]: INFO    [sshd] Found %s - 2026-11-22 20:00:%02d\n", i+1, id, i+1)
		fmt.Fprintf(&b, "2026-11-22 20:00:%02d,100 fail2ban.actions        [1]: NOTICE  [sshd] Ban %s\n", i+1, id)
	}
	return b.String()
}

var strange = []string{
	"192.0.2.1", "192.0.2.1", "192.0.2.2", "198.51.100.0/24", "2001:db8::7", "2001:db8:1::/48", "::ffff:203.0.113.9", // to block
	"10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.1.1", "100.64.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", // never
	"::", "::1", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:10.0.0.1", "0.0.0.0/0", "::/0", "1.0.0.0/8", "2001::/16", "10.0.0.0/24",
	"host.example.org", "root", "';drop", "</td><script>", "=cmd|x!A0", "203.0.113.77", // no addresses; the last is allowed
}

func TestBlocklist(t *testing.T) {
	for _, id := range strange {
		if len(id) > fail2ban.MaxID {
			t.Fatalf("%q is no id", id)
		}
	}
	logs := map[string]string{"web-1": hostile(strange...)}
	d := caughtUp(t, logs, "offenders: {allow: [203.0.113.64/26]}\n")
	want := []string{"192.0.2.1", "203.0.113.9", "2001:db8:1::/48", "2001:db8::7", "198.51.100.0/24", "192.0.2.2"} // by strength, then newest
	body := asked(t, d, apiPath+"blocklist").Body.String()
	if got := strings.Fields(body); !slices.Equal(got, want) {
		t.Errorf("plain: %q, want %q", got, want)
	}
	if got := asked(t, d, apiPath+"blocklist?format=plain&top=2").Body.String(); got != "192.0.2.1\n203.0.113.9\n" {
		t.Errorf("top: %q", got)
	}
	if got := asked(t, d, apiPath+"blocklist?min_score=20").Body.String(); got != "192.0.2.1\n" {
		t.Errorf("min_score: %q", got)
	}
	if got := asked(t, d, apiPath+"blocklist?min_score=100").Body.String(); got != "" {
		t.Errorf("nobody: %q", got)
	}
	var objects []map[string]any
	if err := json.Unmarshal(asked(t, d, apiPath+"blocklist?format=json").Body.Bytes(), &objects); err != nil || len(objects) != len(want) {
		t.Fatalf("json: %v, %v", objects, err)
	}
	for i, o := range objects {
		if o["address"] != want[i] || o["score"].(float64) < 15 || len(o) != 4 {
			t.Errorf("json: %v, want %s", o, want[i])
		}
	}
	for _, format := range []string{"nft", "ipset"} {
		rec := asked(t, d, apiPath+"blocklist?format="+format)
		golden(t, "blocklist."+format, rec.Body.String())
	}
	hidden := caughtUp(t, logs, "privacy: {api: truncate}\n")
	if rec := asked(t, hidden, apiPath+"blocklist"); rec.Code != http.StatusForbidden || !strings.Contains(rec.Body.String(), "privacy.api is truncate") {
		t.Errorf("hidden: %d %s", rec.Code, rec.Body)
	}
}
