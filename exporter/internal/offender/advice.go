package offender

import (
	"cmp"
	"fmt"
	"math"
	"time"
)

// AdviceOptions say when and how a ban time is suggested. The zero value of a
// field takes its default.
type AdviceOptions struct {
	// Cover is which share of the re-offences a suggested ban time would have
	// covered. Default 0.8.
	Cover float64
	// MinEnds (20) ends and MinReoffences (5) are the least data for advice.
	MinEnds, MinReoffences int
	// MinShare is which share of the ends must be followed by a re-offence
	// within 30 days for a longer ban to be worth it. Default 0.1.
	MinShare float64
}

func (o AdviceOptions) withDefaults() AdviceOptions {
	o.Cover, o.MinShare = cmp.Or(o.Cover, 0.8), cmp.Or(o.MinShare, 0.1)
	o.MinEnds, o.MinReoffences = cmp.Or(o.MinEnds, 20), cmp.Or(o.MinReoffences, 5)
	return o
}

// Permanent is the ban time of a jail that bans for ever.
const Permanent time.Duration = -1

// ladder is the ban times that are suggested: round ones.
var ladder = []time.Duration{
	10 * time.Minute, 30 * time.Minute, time.Hour, 4 * time.Hour, 12 * time.Hour,
	24 * time.Hour, 3 * 24 * time.Hour, 7 * 24 * time.Hour, 14 * 24 * time.Hour, 28 * 24 * time.Hour,
}

const (
	month = 30 * 24 * time.Hour
	// atOnce is how soon after the end comes back who has been waiting for it.
	atOnce = 10 * time.Minute
	// mostAtOnce is the share of such returns from which no fixed ban time helps.
	mostAtOnce = 0.5
)

// Verdict is what an advice comes to.
type Verdict uint8

// The verdicts.
const (
	TooLittleData Verdict = iota
	Keep                  // the ban time is right, or is not what matters
	Longer                // another ban time
	Increment             // bantime.increment rather than another fixed time
)

// Advice is what is suggested for the ban time of a jail.
type Advice struct {
	Place      Place
	BanTime    time.Duration // 0 not known, Permanent
	Reoffences int
	Within1h   int
	Within1d   int
	Within7d   int
	Verdict    Verdict
	// Suggested is the ban time to set: the present one for Keep, the first one
	// for Increment; 0 with too little data or where the present is not known.
	Suggested time.Duration
	// Covered is the share of the re-offences within 30 days that Suggested
	// would have covered, for Longer.
	Covered float64
	Reason  string
}

// Advise suggests a ban time for a jail from the returns to it.
//
// The suggested time is the first of a ladder of round ones, longer than the
// present, that would have covered enough of the re-offences of 30 days: one
// counts as covered if it came before the longer ban would have ended.
func Advise(r *Returns, banTime time.Duration, o AdviceOptions) Advice {
	o = o.withDefaults()
	_, reoffences := r.ToBan.Len()
	a := Advice{
		Place: r.Place, BanTime: banTime, Reoffences: reoffences,
		Within1h: r.ToBan.Events(time.Hour), Within1d: r.ToBan.Events(24 * time.Hour), Within7d: r.ToBan.Events(7 * 24 * time.Hour),
	}
	within := r.ToBan.Events(month)
	switch {
	case banTime < 0:
		a.Verdict, a.Suggested, a.Reason = Keep, banTime, "bans are permanent already"
		return a
	case r.Ends < o.MinEnds:
		a.Reason = fmt.Sprintf("too little data: %d bans have ended, %d are needed", r.Ends, o.MinEnds)
		return a
	}
	e := r.ToBan.Estimate()
	stayed := 1.0
	for _, step := range e.Steps {
		if step.At > month {
			break
		}
		stayed = step.Survival
	}
	if stayed > 1-o.MinShare {
		a.Verdict, a.Suggested = Keep, banTime
		a.Reason = fmt.Sprintf("%s of %d ends were followed by a re-offence within 30 days (estimate); a longer ban would change little", percent(1-stayed), r.Ends)
		return a
	}
	if within < o.MinReoffences {
		a.Reason = fmt.Sprintf("too little data: %d re-offences within 30 days, %d are needed", within, o.MinReoffences)
		return a
	}
	if banTime == 0 {
		a.Reason = "the ban time is not known: the settings are not in the log"
		return a
	}
	if soon := r.ToBan.Events(min(atOnce, max(banTime, time.Minute))); share(float64(soon), float64(within)) > mostAtOnce {
		a.Verdict, a.Suggested = Increment, banTime
		a.Reason = fmt.Sprintf("%d of %d re-offences came within %s of the end: they try until it opens, so a longer fixed time only moves them; set bantime.increment = true (and bantime.maxtime = 4w)",
			soon, within, words(min(atOnce, max(banTime, time.Minute))))
		return a
	}
	for _, longer := range ladder {
		if longer <= banTime {
			continue
		}
		covered := r.ToBan.Events(longer - banTime)
		if part := share(float64(covered), float64(within)); part >= o.Cover {
			a.Verdict, a.Suggested, a.Covered = Longer, longer, part
			a.Reason = fmt.Sprintf("%s would have covered %d of %d re-offences within 30 days (%s); %s of the ends were followed by one",
				words(longer), covered, within, percent(part), percent(1-stayed))
			return a
		}
	}
	a.Verdict, a.Suggested = Increment, banTime
	a.Reason = fmt.Sprintf("no ban time up to 4w would have covered %s of %d re-offences; set bantime.increment = true, so that only those who come back are banned longer",
		percent(o.Cover), within)
	return a
}

func percent(part float64) string { return fmt.Sprintf("%.0f %%", math.Round(100*part)) }

// words writes a ban time as fail2ban's settings do.
func words(d time.Duration) string {
	for _, u := range []struct {
		name string
		of   time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}} {
		if d >= u.of && d%u.of == 0 {
			return fmt.Sprintf("%d%s", d/u.of, u.name)
		}
	}
	return fmt.Sprintf("%ds", int64(d.Seconds()))
}
