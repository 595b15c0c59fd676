package main

import (
	"cmp"
	"slices"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
	"fail2ban-loki-exporter/exporter/internal/publish"
)

// returnsOf tells how ids came back to each jail of each host, as of the newest
// line of its host.
func returnsOf(board *offender.Board, sources []publish.SourceReport) []offender.Returns {
	type hostKey struct{ source, host string }
	newest := map[hostKey]time.Time{}
	for i := range sources {
		for k := range sources[i].Report.Hosts {
			h := &sources[i].Report.Hosts[k]
			newest[hostKey{sources[i].Name, h.Host}] = h.LastLine
		}
	}
	return board.Returns(func(source, host string) time.Time { return newest[hostKey{source, host}] })
}

// everywhere adds to the returns of each jail of each host those of each jail
// over all hosts, and those over all.
func everywhere(returns []offender.Returns) []offender.Returns {
	out := slices.Clone(returns)
	for _, r := range offender.ByJail(returns) {
		r.Place.Host = publish.Everywhere
		out = append(out, r)
	}
	if len(returns) > 0 {
		r := offender.Total(returns)
		r.Place = offender.Place{Source: publish.Everywhere, Host: publish.Everywhere, Jail: publish.Everywhere}
		out = append(out, r)
	}
	return out
}

// banTime is a jail's ban time as advice takes it: 0 is not known.
func banTime(j *correlate.JailReport) time.Duration {
	switch {
	case !j.BanTime.OK:
		return 0
	case j.BanTime.V < 0:
		return offender.Permanent
	}
	return j.BanTime.V
}

// adviceOf advises on each jail of each host, in the order of `report jails`.
func adviceOf(returns []offender.Returns, sources []publish.SourceReport, o offender.AdviceOptions) (out []offender.Advice) {
	at := map[offender.Place]*offender.Returns{}
	for i := range returns {
		at[returns[i].Place] = &returns[i]
	}
	for i := range sources {
		for _, h := range sources[i].Report.Hosts {
			for k := range h.Jails {
				j := &h.Jails[k]
				place := offender.Place{Source: sources[i].Name, Host: h.Host, Jail: j.Jail}
				r := at[place]
				if r == nil {
					r = &offender.Returns{Place: place} // it has banned nobody
				}
				out = append(out, offender.Advise(r, banTime(j), o))
			}
		}
	}
	return out
}

// jailOutlooks says of each jail of each source, over all its hosts, who stays
// away and what ban time would hold.
func jailOutlooks(returns []offender.Returns, sources []publish.SourceReport, o offender.AdviceOptions) (out []publish.JailOutlook) {
	times := map[offender.Place][]time.Duration{}
	for i := range sources {
		for _, h := range sources[i].Report.Hosts {
			for k := range h.Jails {
				j := &h.Jails[k]
				if t := banTime(j); t != 0 {
					place := offender.Place{Source: sources[i].Name, Jail: j.Jail}
					times[place] = append(times[place], t)
				}
			}
		}
	}
	byJail := offender.ByJail(returns)
	for i := range byJail {
		r := &byJail[i]
		jail := publish.JailOutlook{Source: r.Place.Source, Jail: r.Place.Jail}
		estimate := r.ToBan.Estimate()
		for k, mark := range offender.Marks {
			s, ok := estimate.Survival(mark)
			jail.Survival[k] = correlate.Maybe[float64]{V: s, OK: ok}
		}
		if a := offender.Advise(r, usual(times[r.Place]), o); a.Suggested != 0 {
			jail.Suggested = correlate.Known(a.Suggested)
		}
		out = append(out, jail)
	}
	return out
}

// usual is the most frequent of some times, of equally frequent ones the
// shortest; 0 of none.
func usual(times []time.Duration) (best time.Duration) {
	slices.Sort(times)
	most := 0
	for i := 0; i < len(times); {
		k := i
		for ; k < len(times) && times[k] == times[i]; k++ {
		}
		if k-i > most {
			best, most = times[i], k-i
		}
		i = k
	}
	return best
}

// fact is what an evaluation is made of: a true ban, or a restore.
type fact struct {
	ban     offender.BanFact
	restore bool
}

// evaluate ranks at each midnight (UTC) that has a full day of log before and
// after it, and counts who of the first top ids was banned in the day after.
func evaluate(facts []fact, first, newest time.Time, top int, o offender.Options) (rows []publish.Evaluation) {
	slices.SortStableFunc(facts, func(a, b fact) int { return a.ban.At.Compare(b.ban.At) })
	const oneDay = 24 * time.Hour
	midnight := first.UTC().Add(2*oneDay - 1).Truncate(oneDay)
	for ; !midnight.Add(oneDay).After(newest); midnight = midnight.Add(oneDay) {
		e := offender.NewEvaluator(o, midnight, oneDay)
		for i := range facts {
			f := &facts[i].ban
			if f.At.After(midnight.Add(oneDay)) {
				break
			}
			if facts[i].restore {
				e.Restore(f.Place, f.ID, f.At)
			} else {
				e.Ban(*f)
			}
		}
		for i, method := range e.Table(cmp.Or(top, defaultTop)) {
			if i == len(rows) {
				rows = append(rows, publish.Evaluation{Method: method.Method})
			}
			rows[i].Hits += method.Banned
			rows[i].Of += method.Listed
			rows[i].Days++
		}
	}
	return rows
}
