package offender

import (
	"slices"
	"time"
)

// Marks are the times after a true end for which the share that has not come
// back is told.
var Marks = []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour}

// longestSpan is how long after an end a return is waited for. Who came back
// later had not come back by then.
const longestSpan = int64(90 * 24 * time.Hour / time.Millisecond)

// Returns is how the ids of a place behaved around their bans.
type Returns struct {
	Place Place
	// Ends counts the true ends of bans.
	Ends int
	// ToBan and ToFailure are the times from a true end to the next true ban
	// and to the next failure, with those still running censored.
	ToBan, ToFailure Spans
	// Before counts the failures, since the id was last free, that led to the
	// bans; During those while banned; After those within as long a time after
	// the true end as the ban had lasted.
	Before, During, After int
	// Banned is how long the bans that have ended were in force.
	Banned time.Duration
}

// PerBannedHour gives the failures before, during and after for each hour in
// force; false where nothing was.
func (r *Returns) PerBannedHour() (before, during, after float64, ok bool) {
	h := r.Banned.Hours()
	if h == 0 {
		return 0, 0, 0, false
	}
	return float64(r.Before) / h, float64(r.During) / h, float64(r.After) / h, true
}

func (r *Returns) merge(o *Returns) {
	r.Ends += o.Ends
	r.ToBan.Merge(&o.ToBan)
	r.ToFailure.Merge(&o.ToFailure)
	r.Before += o.Before
	r.During += o.During
	r.After += o.After
	r.Banned += o.Banned
}

// Returns tells of each place with a ban, by name. newest is a host's newest
// log time, until which nothing more is known of it.
func (b *Board) Returns(newest func(source, host string) time.Time) []Returns {
	out := make([]Returns, len(b.places))
	until := make([]int64, len(b.places))
	for i := range b.places {
		p := &b.places[i]
		until[i] = milliOf(newest(p.Source, p.Host))
		out[i] = Returns{
			Place: p.Place, Ends: int(p.ends), ToBan: p.toBan.clone(), ToFailure: p.toFailure.clone(),
			Before: int(p.before), During: int(p.during), After: int(p.after), Banned: time.Duration(p.banned) * time.Millisecond,
		}
	}
	b.all(func(e *entry) {
		for i := range e.visits {
			v := &e.visits[i]
			r := &out[v.place]
			running := min(max(0, until[v.place]-v.end), longestSpan)
			if v.open {
				r.ToBan.add(running, false)
			}
			if v.waiting {
				r.ToFailure.add(running, false)
			}
		}
	})
	slices.SortFunc(out, func(x, y Returns) int { return x.Place.compare(y.Place) })
	return out
}

// Total adds up returns, over all places.
func Total(rs []Returns) Returns {
	var sum Returns
	for i := range rs {
		sum.merge(&rs[i])
	}
	return sum
}

// ByJail adds up returns over the hosts of each source, by the jail's name.
func ByJail(rs []Returns) []Returns {
	var out []Returns
	at := map[Place]int{}
	for i := range rs {
		jail := Place{Source: rs[i].Place.Source, Jail: rs[i].Place.Jail}
		k, ok := at[jail]
		if !ok {
			k = len(out)
			at[jail] = k
			out = append(out, Returns{Place: jail})
		}
		out[k].merge(&rs[i])
	}
	slices.SortFunc(out, func(x, y Returns) int { return x.Place.compare(y.Place) })
	return out
}

// returned notes what a ban says about the time before it.
func (b *Board) returned(e *entry, v *visit, p *place, at int64, f BanFact) {
	if f.HasDelay {
		ms := f.Delay.Milliseconds()
		p.toBan.add(min(max(0, ms), longestSpan), ms <= longestSpan)
	}
	if at <= v.start {
		return
	}
	if v.end <= at {
		// The ban answers the end, with its delay as an event, above. One without
		// is an administrator's or unexplained: it took the id away.
		v.open = v.open && !f.HasDelay
		p.censor(v, at)
	}
	for i := range e.cells {
		if c := &e.cells[i]; c.place == v.place && b.o.Campaigns.start(c.bucket+1) > v.end {
			p.before += uint64(c.failures)
		}
	}
	v.start = at
}

// censor ends the spans that run since a true end without what they wait for.
func (p *place) censor(v *visit, at int64) {
	running := min(max(0, at-v.end), longestSpan)
	if v.open {
		p.toBan.add(running, false)
	}
	if v.waiting {
		p.toFailure.add(running, false)
	}
	v.open, v.waiting = false, false
}

// ended notes the end of a ban.
func (b *Board) ended(v *visit, p *place, at int64, f EndFact) {
	if at <= v.end {
		return // told before
	}
	if v.open || v.waiting {
		p.censor(v, at) // two ends without a ban between them
	}
	if v.start > v.end && v.start <= at {
		p.banned += at - v.start
	}
	v.end = at
	if !f.True {
		return
	}
	p.ends++
	v.open, v.waiting = v.start <= at, v.start <= at
	if f.Failed {
		p.failedAfter(f.NextFailure.Milliseconds())
		v.waiting = false
	}
}

// failed notes what a failure says about the last ban.
func (b *Board) failed(v *visit, p *place, at int64) {
	switch {
	case v.start > v.end:
		if at > v.start {
			p.during++
		}
	case at >= v.end:
		if v.start > 0 && at-v.end <= v.end-v.start {
			p.after++
		}
		if v.waiting {
			p.failedAfter(at - v.end)
			v.waiting = false
		}
	}
}

func (p *place) failedAfter(ms int64) {
	p.toFailure.add(min(max(0, ms), longestSpan), ms <= longestSpan)
}
