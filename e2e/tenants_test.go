package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// Two tenants have a host of the same name with the same jail and the same
// attackers, in turn: no state is shared, and each tenant's findings go to it
// alone. What was pushed is never read as fail2ban's.
func TestTenants(t *testing.T) {
	one := load(t, "clean-restart").Rename("web-1").EndAt(time.Now().Add(-20 * time.Minute))
	two := load(t, "clean-restart").Rename("web-1").EndAt(time.Now().Add(-20*time.Minute + 700*time.Millisecond))
	alone, events := map[string]map[string]float64{}, 0.0
	for tenant, r := range map[string]*lab.Recording{"tenant-a": one, "tenant-b": two} {
		push(t, tenant, r)
		s := daemonOf(t, config{tenant: tenant}.write(t))
		caughtUp(t, s, time.Now().Add(-20*time.Second))
		samples, err := lab.Scrape(t.Context(), s.URL+"/metrics")
		must(t, err)
		alone[tenant] = hostTotals(samples, "")
		events += lab.SumBy(samples, "fail2ban_exporter_lines_total", "result")["event"]
		s.Stop()
	}
	source := func(name, tenant, query string) string {
		return fmt.Sprintf("  - {name: %s, url: %q, tenant_id: %q, query: %q, host_labels: [host], timezone: UTC, poll_interval: 1s, max_lateness: 1m}\n", name, loki.URL, tenant, query)
	}
	client := func(tenant, source string) string {
		return fmt.Sprintf("  - {url: %q, tenant_id: %q, sources: [%s]}\n", loki.URL, tenant, source)
	}
	file := writeFile(t, t.TempDir(), "config.yaml", "sources:\n"+
		source("first", "tenant-a", `{job=~".+"}`)+source("second", "tenant-b", `{job=~".+"}`)+ // ours match too
		"clients:\n"+client("tenant-a", "first")+client("tenant-b", "second"))
	s := daemonOf(t, file)
	caughtUp(t, s, time.Now().Add(-20*time.Second))
	poll(t, s, "has other totals", func(ctx context.Context) error {
		samples, err := lab.Scrape(ctx, s.URL+"/metrics")
		if err != nil {
			return err
		}
		for name, tenant := range map[string]string{"first": "tenant-a", "second": "tenant-b"} {
			if err := differences(hostTotals(samples, name), alone[tenant]); err != nil {
				return fmt.Errorf("%s: %w", tenant, err)
			}
		}
		return nil
	})
	s.Stop()
	// again: now their own findings lie beside the logs
	s = daemonOf(t, file)
	caughtUp(t, s, time.Now().Add(-20*time.Second))
	samples, err := lab.Scrape(t.Context(), s.URL+"/metrics")
	must(t, err)
	if err := differences(hostTotals(samples, "first"), alone["tenant-a"]); err != nil {
		t.Errorf("with its own findings in sight: %v", err)
	}
	if n := lab.SumBy(samples, "fail2ban_exporter_lines_total", "result")["own"]; n == 0 {
		t.Error("none of its own lines was seen and left alone")
	}
	s.Stop()
	for tenant, r := range map[string]*lab.Recording{"tenant-a": one, "tenant-b": two} {
		var restores []time.Time
		for _, f := range found(t, tenant, r.Lines()[0].Time.Add(-time.Hour), time.Now()) {
			if strings.Contains(f, " finding=restore ") {
				at, err := time.Parse(time.RFC3339Nano, strings.Fields(f)[0])
				must(t, err)
				restores = append(restores, at)
			}
		}
		var want []time.Time
		for _, l := range r.Lines() {
			if restoreLine.MatchString(l.Text) {
				want = append(want, l.Stamp())
			}
		}
		slices.SortFunc(want, time.Time.Compare)
		slices.SortFunc(restores, time.Time.Compare)
		if !slices.EqualFunc(restores, want, time.Time.Equal) {
			t.Errorf("%s: %d findings of restores, its log has %d", tenant, len(restores), len(want))
		}
	}

	// one source of two tenants is one log of both
	both := daemonOf(t, config{tenant: "tenant-a|tenant-b", query: `{job="fail2ban"}`}.write(t))
	caughtUp(t, both, time.Now().Add(-20*time.Second))
	samples, err = lab.Scrape(t.Context(), both.URL+"/metrics")
	must(t, err)
	if got, want := lab.SumBy(samples, "fail2ban_exporter_lines_total", "result")["event"], events; got != want {
		t.Errorf("a|b: %v events, both have %v", got, want)
	}
	for tenant, totals := range alone {
		if got, want := lab.SumBy(samples, "fail2ban_restored_bans_total", "host")[tenant+"/web-1"], sumOf(totals, "fail2ban_restored_bans_total"); got != want {
			t.Errorf("a|b: %v restored at %s, alone there were %v", got, tenant, want)
		}
	}
}

// hostTotals are the totals by host and jail of one source.
func hostTotals(samples []lab.Sample, source string) map[string]float64 {
	out := map[string]float64{}
	for _, s := range samples {
		if s.Labels["host"] == "" || s.Labels["source"] != source || !strings.HasSuffix(s.Name, "_total") {
			continue
		}
		out[s.Name+" "+s.Labels["jail"]+" "+s.Labels["cause"]+s.Labels["origin"]+s.Labels["verb"]+s.Labels["kind"]] = s.Value
	}
	return out
}

func sumOf(totals map[string]float64, name string) (n float64) {
	for key, v := range totals {
		if strings.HasPrefix(key, name+" ") {
			n += v
		}
	}
	return n
}
