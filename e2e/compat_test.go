package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// panels are the queries of the panels that docs/compatibility.md lists, with
// $instance as Grafana fills it in, and what the f2b_ names must add up to.
var panels = map[string]string{
	`f2b_config_jail_max_retries{instance=~"web-1|web-2"}`: "fail2ban_jail_maxretry",
	`f2b_config_jail_ban_time{instance=~"web-1|web-2"}`:    "fail2ban_jail_bantime_seconds",
	`f2b_config_jail_find_time{instance=~"web-1|web-2"}`:   "fail2ban_jail_findtime_seconds",
	`f2b_jail_failed_total{instance=~"web-1|web-2"}`:       "fail2ban_failures_total",
	`f2b_jail_banned_total{instance=~"web-1|web-2"}`:       "fail2ban_bans_total",
	`f2b_jail_banned_current{instance=~"web-1|web-2"}`:     "fail2ban_banned_ips",
	`f2b_jail_failed_current{instance=~"web-1|web-2"}`:     "",
	`f2b_up{instance=~"web-1|web-2"}`:                      "fail2ban_server_running",
	`f2b_jail_count{instance=~"web-1|web-2"}`:              "",
}

// The panels of public dashboards work with the relabelling that the docs give,
// and show the right counts.
func TestCompatF2B(t *testing.T) {
	doc, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	_, yaml, ok := strings.Cut(string(doc), "    metric_relabel_configs:\n")
	if !ok {
		t.Fatal("the docs show no relabelling")
	}
	yaml, _, _ = strings.Cut(yaml, "\n\n")
	tenant, r := stepBack(t, "multihost")
	s := daemon(t, config{tenant: tenant, lookback: "2h", more: "metrics: {compat_f2b: true}\n"})
	prometheus, err := lab.StartPrometheus(t.Context(), lab.PrometheusOptions{
		Targets: map[string]string{"fail2ban": strings.TrimPrefix(s.URL, "http://")}, Relabel: yaml,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(prometheus.Stop)
	for query, same := range panels {
		if !strings.Contains(string(doc), "`"+query[:strings.Index(query, "{")]+"`") {
			t.Errorf("the docs do not name %s", query)
		}
		poll(t, prometheus, "has no right answer to "+query, func(ctx context.Context) error {
			got, err := lab.QueryPrometheus(ctx, prometheus.URL, query)
			if err != nil {
				return err
			}
			hosts := map[string]bool{}
			sum := 0.0
			for _, one := range got {
				hosts[one.Labels["instance"]] = true
				sum += one.Value
			}
			if len(hosts) != 2 {
				return fmt.Errorf("instances %v", hosts)
			}
			if same == "" {
				return nil
			}
			want, err := lab.QueryPrometheus(ctx, prometheus.URL, fmt.Sprintf(`sum(%s{host=~"web-1|web-2"})`, same))
			if err != nil {
				return err
			}
			if len(want) != 1 || want[0].Value != sum {
				return fmt.Errorf("%v, %s has %v", sum, same, want)
			}
			return nil
		})
	}
	total, err := lab.QueryPrometheus(t.Context(), prometheus.URL, "sum(f2b_jail_banned_total)")
	if err != nil {
		t.Fatal(err)
	}
	if inLog := r.CountLines(banLine); len(total) != 1 || total[0].Value == 0 || total[0].Value >= float64(inLog) {
		t.Errorf("%v bans; the log has %d lines of bans, restored and re-read ones among them", total, inLog)
	}
}
