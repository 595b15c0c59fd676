package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// `check --discover` finds fail2ban's streams by the labels that shippers give
// them, and what it prints works as it is pasted.
func TestDiscover(t *testing.T) {
	for name, labels := range map[string]map[string]string{
		"job":       {"job": "fail2ban"},
		"filename":  {"job": "varlogs", "filename": "/var/log/fail2ban.log"},
		"unit":      {"job": "loki.source.journal.default", "unit": "fail2ban.service"},
		"container": {"container": "mail-fail2ban-1", "stream": "stderr"},
		"varlogs":   {"job": "varlogs", "filename": "/var/log/syslog"},
		"alloy":     {"job": "systemd-journal"},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := "discover-" + name
			r := load(t, "clean-restart").EndAt(time.Now().Add(-time.Hour))
			lines := r.Lines()
			for i := range lines { // a stranger's lines among them, where the label promises nothing
				if name == "varlogs" || name == "alloy" {
					lines = append(lines, lab.Line{Host: lines[i].Host, Time: lines[i].Time.Add(time.Microsecond), Text: fmt.Sprintf("kernel: [%d] nothing of interest", i)})
				}
			}
			with := func(_ int, l lab.Line) map[string]string {
				all := maps.Clone(labels)
				all["nodename"] = l.Host
				return all
			}
			must(t, lab.Push(t.Context(), loki.URL, tenant, with, lines))
			must(t, lab.Push(t.Context(), loki.URL, tenant, func(int, lab.Line) map[string]string {
				return map[string]string{"job": "nginx", "nodename": "web-7"}
			}, []lab.Line{{Time: lines[0].Time, Text: "GET /fail2ban HTTP/1.1"}}))

			asked := config{tenant: tenant, query: `{job="nothing-yet"}`}.write(t)
			yaml := succeed(t, "check", "--discover", "--config.file", asked)
			pasted := writeFile(t, t.TempDir(), "pasted.yaml", yaml)
			succeed(t, "check", "--config.file", pasted)
			got := succeed(t, "report", "restores", "--format", "csv", "--config.file", pasted)
			if n, want := strings.Count(got, "\n")-1, r.CountLines(restoreLine); n != want {
				t.Errorf("%d restores, the log has %d, with\n%s", n, want, yaml)
			}
			if !strings.Contains(yaml, "host_labels: [nodename]\n") || !strings.Contains(yaml, "timezone: UTC\n") || strings.Count(yaml, "query:") != 1 {
				t.Errorf("what is to be pasted:\n%s", yaml)
			}
		})
	}
	r := execute(t, "check", "--discover", "--config.file", config{tenant: "discover-nothing"}.write(t))
	if r.code != 1 || !strings.Contains(r.stderr, "no stream holds lines of fail2ban's") || r.stdout != "" {
		t.Errorf("an empty Loki: exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
}
