package offender

import (
	"cmp"
	"slices"
	"time"
)

// Evaluator tells how well rankings of a moment foresaw what came after it: the
// score beside what a user would do without it. It takes the facts that a Board
// takes, in any order.
type Evaluator struct {
	at, until, dayBefore int64
	board                *Board
	methods              [3]map[string]*tally
	banned, failed       map[string]bool // after the moment
}

// tally is an id in a ranking that only counts.
type tally struct {
	n    int
	last int64
}

// Evaluation is how one way of ranking did.
type Evaluation struct {
	Method string
	// Listed ids were in its top list; Banned of them were truly banned within
	// the horizon, Failed of them failed or were banned.
	Listed, Banned, Failed int
}

// The ways of ranking that are compared.
const (
	ByScore    = "score"
	ByBans     = "true bans"
	ByLastDay  = "true bans of the last day"
	ByRestores = "bans and restores"
)

// NewEvaluator compares the rankings as of a moment by what happened from then
// until the horizon has passed.
func NewEvaluator(o Options, at time.Time, horizon time.Duration) *Evaluator {
	return NewEvaluatorOf(o, at, horizon, 24*time.Hour)
}

// NewEvaluatorOf is NewEvaluator with another span for the last day.
func NewEvaluatorOf(o Options, at time.Time, horizon, day time.Duration) *Evaluator {
	e := &Evaluator{
		at: at.UnixMilli(), until: at.Add(horizon).UnixMilli(), dayBefore: at.Add(-day).UnixMilli(),
		board: NewBoard(o), banned: map[string]bool{}, failed: map[string]bool{},
	}
	for i := range e.methods {
		e.methods[i] = map[string]*tally{}
	}
	return e
}

// Ban notes a true ban.
func (e *Evaluator) Ban(f BanFact) {
	if slices.Contains(e.board.o.RecidiveJails, f.Place.Jail) {
		return // it follows from other bans, so it is none to foresee
	}
	t := f.At.UnixMilli()
	switch {
	case t <= e.at:
		e.board.Ban(f)
		e.count(0, f.ID, t)
		if t > e.dayBefore {
			e.count(1, f.ID, t)
		}
		e.count(2, f.ID, t)
	case t <= e.until:
		e.banned[f.ID], e.failed[f.ID] = true, true
	}
}

// Restore notes a restored ban.
func (e *Evaluator) Restore(p Place, id string, at time.Time) {
	if t := at.UnixMilli(); t <= e.at {
		e.board.Restore(p, id, at)
		e.count(2, id, t)
	}
}

// Failure notes a failure.
func (e *Evaluator) Failure(p Place, id string, at time.Time) {
	switch t := at.UnixMilli(); {
	case t <= e.at:
		e.board.Failure(p, id, at)
	case t <= e.until:
		e.failed[id] = true
	}
}

func (e *Evaluator) count(method int, id string, at int64) {
	t := e.methods[method][id]
	if t == nil {
		t = &tally{}
		e.methods[method][id] = t
	}
	t.n++
	t.last = max(t.last, at)
}

// Table compares the top lists of this length. Ids with the same count stand by
// their last one, newer first, then by name: as good as counting can be.
func (e *Evaluator) Table(top int) []Evaluation {
	var ranked []string
	for _, r := range e.board.Rank(timeOf(e.at), top).Rows {
		if r.Bans > 0 {
			ranked = append(ranked, r.ID)
		}
	}
	out := []Evaluation{e.judge(ByScore, ranked)}
	for i, name := range []string{ByBans, ByLastDay, ByRestores} {
		type one struct {
			id string
			*tally
		}
		best := newFirst(top, func(a, b one) int {
			return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(b.last, a.last), cmp.Compare(a.id, b.id))
		})
		for id, t := range e.methods[i] {
			best.add(one{id, t})
		}
		var ids []string
		for _, o := range best.sorted() {
			ids = append(ids, o.id)
		}
		out = append(out, e.judge(name, ids))
	}
	return out
}

func (e *Evaluator) judge(method string, ids []string) Evaluation {
	out := Evaluation{Method: method, Listed: len(ids)}
	for _, id := range ids {
		if e.banned[id] {
			out.Banned++
		}
		if e.failed[id] {
			out.Failed++
		}
	}
	return out
}
