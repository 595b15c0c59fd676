package offender

import (
	"cmp"
	"slices"
	"time"
)

// Standing is how often an id was truly banned within the window.
type Standing uint8

// The standings, the worse the greater.
const (
	None Standing = iota
	Repeat
	Persistent
)

// String names the standing; that of most ids is empty.
func (s Standing) String() string { return [...]string{"", "repeat", "persistent"}[s] }

// standing counts the bans within the window that ends at now.
func (e *entry) standing(now int64, o *Options) Standing {
	n := len(e.recent)
	if n < o.RepeatBans && n < o.PersistentBans {
		return None
	}
	since := now - o.Window.Milliseconds()
	for n = 0; n < len(e.recent) && e.recent[len(e.recent)-1-n].at >= since; n++ {
	}
	switch {
	case n >= o.PersistentBans:
		return Persistent
	case n >= o.RepeatBans:
		return Repeat
	}
	return None
}

// Ranking is the board at a time.
type Ranking struct {
	// Rows are the first of the ranking.
	Rows []Row
	// Tracked counts the ids with a ban or a restore, Repeat those with enough
	// true bans within the window, Persistent those of them with many.
	Tracked, Repeat, Persistent int
}

// Rank gives the first top ids: the greater strength first, hence the greater
// score, then the newer last ban, then by id, so that no two are ever in an
// order left to chance.
func (b *Board) Rank(now time.Time, top int) Ranking {
	var r Ranking
	t := now.UnixMilli()
	p, first := b.newParts(t), newFirst(top, candidate.compare)
	b.all(func(e *entry) {
		if e.bans == 0 && e.restores == 0 && !e.escalated {
			return
		}
		r.Tracked++
		switch e.standing(t, &b.o) {
		case Persistent:
			r.Persistent++
			r.Repeat++
		case Repeat:
			r.Repeat++
		case None:
		}
		c := candidate{e: e}
		if e.bans > 0 {
			// No breadth makes more of an id than its places could, all fresh.
			n := float64(len(e.visits))
			c.strength = rounded(b.c.strength(p.massOf(e), n, n))
			if !first.takes(c) {
				return
			}
			p.add(e)
			parts, _, _ := p.take()
			c.strength = rounded(parts.Strength)
		}
		first.add(c)
	})
	for i, c := range first.sorted() {
		r.Rows = append(r.Rows, b.row(i+1, c.e, p))
	}
	return r
}

// Of gives one id's row, as of now, with its rank left 0; false where it is
// not known.
func (b *Board) Of(id string, now time.Time) (Row, bool) {
	i, ok := b.lookup(id)
	if !ok {
		return Row{}, false
	}
	return b.row(0, b.at(i), b.newParts(now.UnixMilli())), true
}

func (b *Board) row(rank int, e *entry, p *parts) Row {
	p.add(e)
	parts, hosts, jails := p.take()
	if e.bans == 0 {
		parts = Parts{}
	}
	origin := b.o.originOf(e.id)
	places := make([]Place, 0, len(e.visits))
	for i := range e.visits {
		places = append(places, b.places[e.visits[i].place].Place)
	}
	slices.SortFunc(places, Place.compare)
	return Row{
		Places: places,
		Rank:   rank, ID: e.id, Country: origin.Country, ASN: origin.ASN, Score: b.c.score(parts.Strength), Scored: true, Parts: parts,
		Bans: int(e.bans), Restores: int(e.restores), Failures: int(e.failures), GapFailures: int(e.gapFailures), Hosts: hosts, Jails: jails,
		FirstSeen: timeOf(e.first), LastSeen: timeOf(e.last), LastBan: timeOf(e.ban), Escalated: e.escalated,
		Standing: e.standing(p.now, &b.o), Network: b.o.networkOf(e.id),
	}
}

// candidate is an id on its way into the ranking.
type candidate struct {
	e        *entry
	strength float64
}

func (c candidate) compare(d candidate) int {
	return cmp.Or(cmp.Compare(d.strength, c.strength), cmp.Compare(d.e.ban, c.e.ban), cmp.Compare(c.e.id, d.e.id))
}

// first keeps the first n of many: a heap with the last of them on top.
type first[T any] struct {
	n       int
	heap    []T
	compare func(T, T) int
}

func newFirst[T any](n int, compare func(T, T) int) *first[T] {
	return &first[T]{n: max(0, n), compare: compare}
}

// takes tells whether one so good would be among them.
func (f *first[T]) takes(c T) bool {
	return len(f.heap) < f.n || f.n > 0 && f.compare(c, f.heap[0]) < 0
}

func (f *first[T]) add(c T) {
	switch {
	case len(f.heap) < f.n:
		f.heap = append(f.heap, c)
		for i := len(f.heap) - 1; i > 0; {
			up := (i - 1) / 2
			if f.compare(f.heap[i], f.heap[up]) <= 0 {
				break
			}
			f.heap[i], f.heap[up] = f.heap[up], f.heap[i]
			i = up
		}
	case f.takes(c):
		f.heap[0] = c
		for i := 0; ; {
			last := i
			for _, k := range []int{2*i + 1, 2*i + 2} {
				if k < len(f.heap) && f.compare(f.heap[k], f.heap[last]) > 0 {
					last = k
				}
			}
			if last == i {
				break
			}
			f.heap[i], f.heap[last] = f.heap[last], f.heap[i]
			i = last
		}
	}
}

// sorted gives them in their order; no more can be added.
func (f *first[T]) sorted() []T {
	slices.SortFunc(f.heap, f.compare)
	return f.heap
}
