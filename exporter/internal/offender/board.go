// Package offender ranks ids over all hosts and jails by what they truly did:
// true bans, never restores.
//
// It is pure: time comes in with what is observed and as an argument. A Board
// is fed fact by fact and never looks back, so that ids which stay idle cost
// nothing.
package offender

import (
	"cmp"
	"slices"
	"time"
)

// Options say who counts as what.
type Options struct {
	// RepeatBans true bans within Window make a repeat offender. Default 2.
	RepeatBans int
	// Window is how far back true bans count for that. Default 30 days.
	Window time.Duration
	// RecidiveJails ban for bans in other jails: theirs are derived, so they
	// do not count again but mark the id as escalated. Default recidive.
	RecidiveJails []string
}

// Place is one jail of one host.
type Place struct{ Host, Jail string }

// Board keeps what each id did.
type Board struct {
	o     Options
	ids   map[string]*entry
	hosts map[string]uint32 // names told apart by a number
	jails map[string]uint32
}

// entry is one id.
type entry struct {
	bans, restores, failures, gapFailures uint32

	escalated        bool
	first, last, ban int64 // Unix milliseconds
	hosts, jails     []uint32
	recent           []int64 // the newest bans, at most RepeatBans of them, oldest first
}

// NewBoard makes an empty board.
func NewBoard(o Options) *Board {
	if o.RepeatBans == 0 {
		o.RepeatBans = 2
	}
	if o.Window == 0 {
		o.Window = 30 * 24 * time.Hour
	}
	if o.RecidiveJails == nil {
		o.RecidiveJails = []string{"recidive"}
	}
	return &Board{o: o, ids: map[string]*entry{}, hosts: map[string]uint32{}, jails: map[string]uint32{}}
}

// Ban notes a true ban.
func (b *Board) Ban(p Place, id string, at time.Time) {
	e := b.seen(id, at)
	if slices.Contains(b.o.RecidiveJails, p.Jail) {
		e.escalated = true
		return
	}
	e.bans++
	e.ban = max(e.ban, at.UnixMilli())
	e.hosts = insert(e.hosts, number(b.hosts, p.Host))
	e.jails = insert(e.jails, number(b.jails, p.Jail))
	e.remember(at.UnixMilli(), b.o.RepeatBans)
}

// Restore notes a restored ban: it shows that the id is banned, and no offence.
func (b *Board) Restore(_ Place, id string, at time.Time) { b.seen(id, at).restores++ }

// Failure notes a failure.
func (b *Board) Failure(_ Place, id string, at time.Time) { b.seen(id, at).failures++ }

// GapFailure notes that a failure, already noted as such, came while the host
// or the jail was down.
func (b *Board) GapFailure(_ Place, id string, at time.Time) { b.seen(id, at).gapFailures++ }

// remember keeps the newest n ban times in order, whatever order they come in.
func (e *entry) remember(at int64, n int) {
	i, _ := slices.BinarySearch(e.recent, at)
	e.recent = slices.Insert(e.recent, i, at)
	if len(e.recent) > n {
		e.recent = slices.Delete(e.recent, 0, len(e.recent)-n)
	}
}

func (b *Board) seen(id string, at time.Time) *entry {
	t := at.UnixMilli()
	e, ok := b.ids[id]
	if !ok {
		e = &entry{first: t, last: t}
		b.ids[id] = e
	}
	e.first, e.last = min(e.first, t), max(e.last, t)
	return e
}

// Ranking is the board at a time.
type Ranking struct {
	// Rows are the first of the ranking.
	Rows []Row
	// Tracked counts the ids with a ban or a restore, Repeat those with
	// enough true bans within the window.
	Tracked, Repeat int
}

// Rank gives the first top ids: more true bans first, then the newer last ban,
// then by id, so that no two are ever in an order left to chance.
func (b *Board) Rank(now time.Time, top int) Ranking {
	var r Ranking
	since := now.Add(-b.o.Window).UnixMilli()
	ids := make([]string, 0, len(b.ids))
	for id, e := range b.ids {
		if e.bans == 0 && e.restores == 0 && !e.escalated {
			continue
		}
		r.Tracked++
		if len(e.recent) >= b.o.RepeatBans && e.recent[0] >= since {
			r.Repeat++
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, b.compare)
	for i, id := range ids[:min(top, len(ids))] {
		r.Rows = append(r.Rows, b.ids[id].row(i+1, id))
	}
	return r
}

func (b *Board) compare(x, y string) int {
	e, f := b.ids[x], b.ids[y]
	return cmp.Or(cmp.Compare(f.bans, e.bans), cmp.Compare(f.ban, e.ban), cmp.Compare(x, y))
}

func (e *entry) row(rank int, id string) Row {
	return Row{
		Rank: rank, ID: id, Bans: int(e.bans), Restores: int(e.restores), Failures: int(e.failures), GapFailures: int(e.gapFailures),
		Hosts: len(e.hosts), Jails: len(e.jails), FirstSeen: timeOf(e.first), LastSeen: timeOf(e.last), LastBan: timeOf(e.ban), Escalated: e.escalated,
	}
}

func timeOf(milli int64) time.Time {
	if milli == 0 {
		return time.Time{}
	}
	return time.UnixMilli(milli).UTC()
}

func number(names map[string]uint32, name string) uint32 {
	n, ok := names[name]
	if !ok {
		n = uint32(len(names))
		names[name] = n
	}
	return n
}

func insert(s []uint32, n uint32) []uint32 {
	if i, found := slices.BinarySearch(s, n); !found {
		return slices.Insert(s, i, n)
	}
	return s
}
