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
	hosts := map[uint32]uint32{noHost: noHost}
	for i := range o.places {
		hosts[o.places[i].host] = b.places[places[i]].host
	}
	for key, n := range o.countries {
		b.countries[countryKey{hosts[key.host], key.country}] += n
	}
	o.all(func(e *entry) { b.get(e.id).merge(e, places, hosts, b) })
}

// merge adds what another board knows of the same id.
func (e *entry) merge(o *entry, places []uint32, hosts map[uint32]uint32, b *Board) {
	for _, p := range o.shares() {
		if share := b.on(e, hosts[p.host]); share != nil {
			share.add(&p.deeds, b.c.decay)
		}
	}
	e.add(&o.deeds, b.c.decay)
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
