package publish

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// compatPage is what a collector serves, as text.
func compatPage(t *testing.T, o MetricsOptions, v *View) (string, *prometheus.Registry) {
	t.Helper()
	c := NewCompat(o)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	c.Set(v)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			b.WriteString(f.GetName())
			for _, l := range m.GetLabel() {
				b.WriteString(" " + l.GetValue())
			}
			b.WriteString(" " + floatValue(m.GetGauge().GetValue()+m.GetCounter().GetValue()).String() + "\n")
		}
	}
	return b.String(), reg
}

// The old names have the new counts: true bans, not what the log calls a ban.
func TestCompat(t *testing.T) {
	v := view()
	page, reg := compatPage(t, MetricsOptions{}, v)
	problems, err := testutil.GatherAndLint(reg)
	for _, p := range problems {
		if p.Metric != "f2b_jail_count" { // an old name, and so it stays
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if err != nil {
		t.Error(err)
	}
	h := &v.Sources[0].Report.Hosts[0]
	j := &h.Jails[len(h.Jails)-1]
	for name, want := range map[string]float64{
		"f2b_up web1": 1, "f2b_up web2": 0, "f2b_jail_count web1": float64(len(h.Jails)),
		"f2b_jail_banned_total web1 sshd": float64(j.Counts.TrueBans()), "f2b_jail_failed_total web1 sshd": float64(j.Counts.Failures),
		"f2b_jail_banned_current web1 sshd": float64(j.BannedNow), "f2b_config_jail_max_retries web1 sshd": float64(j.MaxRetry.V),
	} {
		if line := name + " " + floatValue(want).String() + "\n"; !strings.Contains(page, line) {
			t.Errorf("%q is not in\n%s", line, page)
		}
	}
	if j.Counts.TrueBans() == j.Counts.LogBans() {
		t.Error("the fixture tells true bans and bans of the log apart no more")
	}
	if page, _ := compatPage(t, MetricsOptions{MaxHosts: 1, MaxJails: 1, NameSource: true}, v); !strings.Contains(page, "other other ") && !strings.Contains(page, " other") {
		t.Errorf("no bounds:\n%s", page)
	}
	v.CaughtUp = false
	if page, _ := compatPage(t, MetricsOptions{}, v); page != "" {
		t.Errorf("served while catching up:\n%s", page)
	}
}
