package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// wrappers are what shippers put around a line when nobody tells them not to.
var wrappers = map[string]func(l lab.Line) string{
	"docker": func(l lab.Line) string {
		return object(map[string]string{"log": l.Text + "\n", "stream": "stdout", "time": l.Time.Format(time.RFC3339Nano)})
	},
	"journal-json": func(l lab.Line) string { // stdout captured by systemd, all fields kept
		return object(map[string]string{
			"MESSAGE": l.Text, "PRIORITY": "6", "SYSLOG_IDENTIFIER": "fail2ban-server", "_PID": "77", "_TRANSPORT": "stdout",
			"__REALTIME_TIMESTAMP": strconv.FormatInt(l.Time.UnixMicro(), 10),
		})
	},
	"logfmt": func(l lab.Line) string {
		return fmt.Sprintf("ts=%s level=info msg=%q", l.Time.Format(time.RFC3339Nano), l.Text)
	},
}

func object(fields map[string]string) string {
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err) // strings marshal
	}
	return string(b)
}

// Lines that a shipper wrapped into JSON or logfmt give the same rows as the bare
// ones, byte for byte, from a real Loki and from files.
func TestWrappedLines(t *testing.T) {
	within := []string{"--format", "csv", "--from", "2026-11-22T19:00:00Z", "--to", "2026-11-22T21:30:00Z"}
	for _, name := range []string{"clean-restart", "restart-jail"} {
		r := load(t, name)
		bare := []string{"--timezone", "UTC", "--input", "web-1=" + r.Hosts[0].File}
		for form, wrap := range wrappers {
			t.Run(name+"/"+form, func(t *testing.T) {
				lines, text := r.Lines(), strings.Builder{}
				for i := range lines {
					lines[i].Text = wrap(lines[i])
					text.WriteString(lines[i].Text + "\n")
				}
				tenant := name + "-" + form
				if err := lab.Push(t.Context(), loki.URL, tenant, lab.Spread(1), lines); err != nil {
					t.Fatal(err)
				}
				stored := []string{"--config.file", config{tenant: tenant}.write(t)}
				file := []string{"--timezone", "UTC", "--input", "web-1=" + writeFile(t, t.TempDir(), "wrapped.log", text.String())}
				for _, kind := range []string{"events", "restores", "bans", "restarts"} {
					report := slices.Concat([]string{"report", kind}, within)
					want := succeed(t, slices.Concat(report, bare)...)
					if strings.Count(want, "\n") < 2 {
						t.Errorf("%s of the bare lines is all but empty:\n%s", kind, want)
					}
					if got := succeed(t, slices.Concat(report, stored)...); got != want {
						t.Errorf("%s from Loki: %s", kind, difference(got, want))
					}
					if got := succeed(t, slices.Concat(report, file)...); got != want {
						t.Errorf("%s from a file: %s", kind, difference(got, want))
					}
				}
			})
		}
	}
}

// journald's export as it stands, all fields of an entry in one line of JSON: the
// same verdicts as with MESSAGE as the line and the fields beside it.
func TestJournalAsJSON(t *testing.T) {
	dir, hosts, err := lab.ReadTruth("fmt-journal")
	if err != nil {
		t.Fatal(err)
	}
	lines := journal(t, dir, hosts["web-1"])
	rows, err := os.ReadFile(filepath.Join(dir, "journal-json.log"))
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range strings.Split(strings.TrimSpace(string(rows)), "\n") {
		lines[i].Text, lines[i].Metadata = row, nil
	}
	if err := lab.Push(t.Context(), loki.URL, "journal-as-json", lab.Spread(1), rising(lines)); err != nil {
		t.Fatal(err)
	}
	got := eventsFromLoki(t, config{tenant: "journal-as-json"}, lines)
	scoreOf(got, hosts["web-1"].Events).check(t)
	for _, v := range got {
		if v.event == "unban" && v.confidence != "certain" {
			t.Errorf("%v at %s is only %s", v, v.time, v.confidence)
		}
	}
}
