package offender

import (
	"testing"
	"time"
)

// Each advice says its reason in numbers.
func TestAdvise(t *testing.T) {
	delays := func(n int, d ...time.Duration) (out []time.Duration) {
		for range n {
			out = append(out, d...)
		}
		return out
	}
	for _, c := range []struct {
		name      string
		banTime   time.Duration
		delays    []time.Duration // of those who came back
		stayed    int             // who did not, for 40 days
		verdict   Verdict
		suggested time.Duration
		reason    string
	}{
		{"nothing", time.Hour, nil, 0, TooLittleData, 0, "too little data: 0 bans have ended, 20 are needed"},
		{"little", time.Hour, delays(3, time.Minute), 10, TooLittleData, 0, "too little data: 13 bans have ended, 20 are needed"},
		{"few", time.Hour, delays(4, 2*time.Hour), 20, TooLittleData, 0, "too little data: 4 re-offences within 30 days, 5 are needed"},
		{"permanent", Permanent, nil, 50, Keep, Permanent, "bans are permanent already"},
		{
			"none come back", time.Hour, delays(1, 2*time.Hour), 99, Keep, time.Hour,
			"1 % of 100 ends were followed by a re-offence within 30 days (estimate); a longer ban would change little",
		},
		{
			"unknown ban time", 0, delays(20, 2*time.Hour), 20, TooLittleData, 0,
			"the ban time is not known: the settings are not in the log",
		},
		{
			"within the hour", 10 * time.Minute, delays(10, 15*time.Minute, 25*time.Minute, 40*time.Minute), 30, Longer, time.Hour,
			"1h would have covered 30 of 30 re-offences within 30 days (100 %); 50 % of the ends were followed by one",
		},
		{
			"within days", time.Hour, delays(10, 3*time.Hour, 20*time.Hour, 40*time.Hour, 50*time.Hour, 20*24*time.Hour), 50, Longer, 3 * 24 * time.Hour,
			"3d would have covered 40 of 50 re-offences within 30 days (80 %); 50 % of the ends were followed by one",
		},
		{
			"waiting", time.Hour, delays(10, time.Minute, 2*time.Minute, 5*time.Hour), 30, Increment, time.Hour,
			"20 of 30 re-offences came within 10m of the end: they try until it opens, so a longer fixed time only moves them; set bantime.increment = true (and bantime.maxtime = 4w)",
		},
		{
			"late", 3 * 7 * 24 * time.Hour, delays(30, 20*24*time.Hour), 30, Increment, 3 * 7 * 24 * time.Hour,
			"no ban time up to 4w would have covered 80 % of 30 re-offences; set bantime.increment = true, so that only those who come back are banned longer",
		},
	} {
		r := Returns{Place: Place{Host: "h", Jail: "j"}, Ends: len(c.delays) + c.stayed}
		for _, d := range c.delays {
			r.ToBan.Add(d, true)
		}
		for range c.stayed {
			r.ToBan.Add(40*24*time.Hour, false)
		}
		a := Advise(&r, c.banTime, AdviceOptions{})
		if a.Verdict != c.verdict || a.Suggested != c.suggested || a.Reason != c.reason || a.Reoffences != len(c.delays) || a.Place != r.Place {
			t.Errorf("%s: %+v", c.name, a)
		}
		if c.name == "within days" && (a.Within1h != 0 || a.Within1d != 20 || a.Within7d != 40 || a.Covered != 0.8) {
			t.Errorf("%+v", a)
		}
	}
	if got := []string{words(90 * time.Second), words(90 * time.Minute), words(36 * time.Hour), words(7 * 24 * time.Hour)}; got[0] != "90s" || got[1] != "90m" || got[2] != "36h" || got[3] != "1w" {
		t.Error(got)
	}
}
