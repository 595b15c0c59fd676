package offender

import (
	"slices"
)

// Merge adds another board, made with the same options, of other hosts: the
// result is the board of all of them. The other one stays as it is.
func (b *Board) Merge(o *Board) {
	places := make([]uint32, len(o.places))
	for i := range o.places {
		q := &o.places[i]
		places[i] = b.place(q.Place)
		p := &b.places[places[i]]
		p.ends += q.ends
		p.toBan.Merge(&q.toBan)
		p.toFailure.Merge(&q.toFailure)
		p.before += q.before
		p.during += q.during
		p.after += q.after
		p.banned += q.banned
	}
	b.AddCountries(o.countries)
	o.all(func(e *entry) { b.get(e.id).merge(e, places, b) })
}

// merge adds what another board knows of the same id.
func (e *entry) merge(o *entry, places []uint32, b *Board) {
	if o.first != 0 && (e.first == 0 || o.first < e.first) {
		e.first = o.first
	}
	e.last = max(e.last, o.last)
	if o.bans > 0 {
		e.weigh(o.mass, o.ban, b.c.decay)
	}
	e.bans += o.bans
	e.restores += o.restores
	e.failures += o.failures
	e.gapFailures += o.gapFailures
	e.escalated = e.escalated || o.escalated
	for _, v := range o.visits {
		mine := e.visit(places[v.place])
		mine.open, mine.waiting = mine.open || v.open, mine.waiting || v.waiting
		mine.ban, mine.start, mine.end = max(mine.ban, v.ban), max(mine.start, v.start), max(mine.end, v.end)
	}
	for _, s := range o.recent {
		e.remember(stamp{s.at, places[s.place]}, b.o.keep())
	}
	for _, c := range o.cells {
		c.place = places[c.place]
		e.put(c)
	}
}

// renumber gives everything the numbers that a board has whose places came in
// their own order, so that equal boards are written alike.
func (b *Board) renumber() (order []Place, to []uint32) {
	for i := range b.places {
		order = append(order, b.places[i].Place)
	}
	slices.SortFunc(order, Place.compare)
	to = make([]uint32, len(order))
	for i, p := range order {
		to[b.placeNo[p]] = uint32(i)
	}
	return order, to
}
