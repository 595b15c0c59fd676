package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// wholeAddress is an address of the recordings' ranges that is not cut to its
// network.
var wholeAddress = regexp.MustCompile(`\b(192\.0\.2|198\.51\.100|203\.0\.113)\.([1-9][0-9]*)\b`)

// Where it shall be so, no output names an address: not the metrics, the
// findings, the API, the reports, and not the samples of lines that cannot be read.
func TestNobodyIsNamed(t *testing.T) {
	key := writeFile(t, t.TempDir(), "key", "correct horse battery staple\n")
	for mode, hidden := range map[string]string{"hash": `"h-[0-9a-f]{24}"`, "truncate": `"192\.0\.2\.0/24"`} {
		t.Run(mode, func(t *testing.T) {
			tenant, r := stepBack(t, "multihost")
			var spoilt []lab.Line
			for i, text := range []string{"[sshd] Ban 192.0.2.77 192.0.2.78 \x1b[31m", "[sshd] Increase Ban 192.0.2.77 \x1b[31m"} {
				at := r.End().Add(time.Duration(i) * time.Millisecond)
				spoilt = append(spoilt, lab.Line{Host: "web-1", Time: at, Text: at.UTC().Format("2006-01-02 15:04:05,000") + " fail2ban.actions [7]: NOTICE  " + text})
			}
			if err := lab.Push(t.Context(), loki.URL, tenant, lab.Spread(1), spoilt); err != nil {
				t.Fatal(err)
			}
			c := config{tenant: tenant, push: true, lookback: "2h", more: brief + fmt.Sprintf(
				"privacy: {key_file: %q, metrics: %[2]s, findings: %[2]s, api: %[2]s, report: %[2]s, log: %[2]s}\n", key, mode)}
			s := daemon(t, c)
			own := ownJob + ` | line_format "{{__line__}} {{.ip}}"`
			if mode == "hash" {
				own += ` |= "id=h-"`
			} else {
				own += ` |= ".0/24"`
			}
			var findings []lab.Entry
			poll(t, s, "says nothing", func(ctx context.Context) (err error) {
				if _, err := lab.Get(ctx, s.URL+"/-/ready"); err != nil {
					return err
				}
				findings, err = lab.QueryLoki(ctx, loki.URL, tenant, own, time.Now().Add(-48*time.Hour), time.Now())
				if err == nil && len(findings) == 0 {
					err = fmt.Errorf("no findings")
				}
				return err
			})
			text := map[string]string{"findings": fmt.Sprint(findings), "log": s.Log(), "report": succeed(t, "report", "restores", "--explain", "--format", "csv", "--config.file", c.write(t))}
			for name, path := range map[string]string{"metrics": "/metrics", "offenders": "/api/v1/offenders", "restores": "/api/v1/restores", "landing page": "/"} {
				page, err := lab.Get(t.Context(), s.URL+path)
				if err != nil {
					t.Fatal(err)
				}
				text[name] = string(page)
			}
			for name, is := range text {
				if found := wholeAddress.FindString(is); found != "" {
					t.Errorf("%s name %s", name, found)
				}
			}
			for _, name := range []string{"metrics", "offenders", "restores"} {
				if !regexp.MustCompile(hidden).MatchString(text[name]) {
					t.Errorf("%s show no hidden id:\n%.2000s", name, text[name])
				}
			}
			if !strings.Contains(text["log"], "cannot be read") || strings.Contains(text["log"], "\x1b") {
				t.Errorf("the log has no sample, or a raw one:\n%s", text["log"])
			}
		})
	}
}

// `report --redact` needs no configuration.
func TestReportRedact(t *testing.T) {
	file, err := filepath.Abs("../testdata/recordings/clean-restart/fail2ban.log")
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"table", "csv", "json"} {
		for _, kind := range []string{"summary", "events", "restores", "offenders", "networks", "campaigns"} {
			out := succeed(t, "report", kind, "--redact", "--explain", "--format", format, file)
			if found := wholeAddress.FindString(out); found != "" {
				t.Errorf("%s as %s names %s:\n%s", kind, format, found, out)
			}
		}
	}
}
