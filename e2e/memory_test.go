package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"fail2ban-loki-exporter/e2e/internal/lab"
)

// More addresses than may be kept: the stalest are forgotten, and neither the
// counters nor the other host suffer.
func TestMemoryIsBounded(t *testing.T) {
	const ids, bound, quiet = 4000, 1000, 20
	began := time.Now().Add(-3 * time.Hour).Truncate(time.Second).UTC()
	var lines []lab.Line
	add := func(host string, at time.Time, text string) {
		lines = append(lines, lab.Line{Host: host, Time: at, Text: at.Format("2006-01-02 15:04:05,000") + " " + text})
	}
	const filter, actions = "fail2ban.filter         [1]: INFO    [sshd] ", "fail2ban.actions        [1]: NOTICE  [sshd] "
	for i := range ids {
		at := began.Add(time.Duration(i) * 2 * time.Second)
		id := fmt.Sprintf("10.0.%d.%d", i>>8, i&255)
		add("noisy", at, filter+"Found "+id+" - "+at.Format(time.DateTime))
		add("noisy", at.Add(100*time.Millisecond), actions+"Ban "+id)
		if i%20 == 0 {
			id := fmt.Sprintf("192.0.2.%d", i/20%quiet)
			add("quiet", at.Add(200*time.Millisecond), filter+"Found "+id+" - "+at.Format(time.DateTime))
		}
		if i > 300 { // ten minutes later
			id := fmt.Sprintf("10.0.%d.%d", (i-300)>>8, (i-300)&255)
			add("noisy", at.Add(300*time.Millisecond), actions+"Unban "+id)
		}
	}
	tenant := "memory"
	if err := lab.Push(t.Context(), loki.URL, tenant, lab.Spread(1), lines); err != nil {
		t.Fatal(err)
	}
	s := daemon(t, config{tenant: tenant, lookback: "1d", more: fmt.Sprintf("state: {max_tracked_keys: %d}\n", bound)})
	metricsBecome(t, s, func(samples []lab.Sample) error {
		kept, forgotten := lab.Sum(samples, "fail2ban_exporter_tracked_keys"), lab.Sum(samples, "fail2ban_exporter_evicted_keys_total")
		bans, failures := lab.SumBy(samples, "fail2ban_bans_total", "host"), lab.SumBy(samples, "fail2ban_failures_total", "host")
		var errs []error
		if kept > bound || kept+forgotten != ids+quiet {
			errs = append(errs, fmt.Errorf("%v keys are kept and %v forgotten", kept, forgotten))
		}
		if n := lab.Sum(samples, "fail2ban_offenders"); n > bound {
			errs = append(errs, fmt.Errorf("%v are ranked", n))
		}
		if bans["noisy"] != ids || failures["noisy"] != ids || failures["quiet"] != ids/20 {
			errs = append(errs, fmt.Errorf("bans %v, failures %v", bans, failures))
		}
		return errors.Join(errs...)
	})
}
