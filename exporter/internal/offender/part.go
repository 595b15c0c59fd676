package offender

import (
	"cmp"
	"slices"
	"sort"
)

// What an id did is also kept host by host, where several saw it: so that one
// host's share can be taken out again when its log turns out to have been
// longer than what was read of it.

// deeds are what an id did. Times are Unix milliseconds, 0 is none.
type deeds struct {
	first, last                           int64
	bans, restores, failures, gapFailures uint32
	mass                                  float64 // as of ban
	ban                                   int64   // the newest that counts
}

// saw notes that the id did something.
func (d *deeds) saw(at int64) {
	if d.first == 0 || at < d.first {
		d.first = at
	}
	d.last = max(d.last, at)
}

// weigh adds a ban to the decayed sum, which is as of the newest one.
func (d *deeds) weigh(w float64, at int64, decay func(age int64) float64) {
	switch {
	case d.ban == 0:
		d.mass, d.ban = w, at
	case at >= d.ban:
		d.mass = d.mass*decay(at-d.ban) + w
		d.ban = at
	default:
		d.mass += w * decay(d.ban-at)
	}
}

// add adds what was done elsewhere.
func (d *deeds) add(o *deeds, decay func(age int64) float64) {
	if o.first != 0 {
		d.saw(o.first)
		d.last = max(d.last, o.last)
	}
	if o.bans > 0 {
		d.weigh(o.mass, o.ban, decay)
	}
	d.bans += o.bans
	d.restores += o.restores
	d.failures += o.failures
	d.gapFailures += o.gapFailures
}

// part is what an id did on one host.
type part struct {
	host uint32
	deeds
}

// on gives the share of a host in what an id did, to be told the next fact
// together with the whole; nil where the id was seen on no other host, so that
// the whole is the share.
func (b *Board) on(e *entry, host uint32) *deeds {
	if e.host == host+1 && !e.several {
		return nil
	}
	return b.among(e, host)
}

func (b *Board) among(e *entry, host uint32) *deeds {
	if e.host == 0 {
		e.host = host + 1
		return nil
	}
	if !e.several {
		e.parts, e.several = b.pair(), true
		e.parts = append(e.parts, part{e.host - 1, e.deeds})
	}
	i, ok := e.partOf(host)
	if !ok {
		e.parts = slices.Insert(e.parts, i, part{host: host})
	}
	return &e.parts[i].deeds
}

// pair is room for the parts of an id that two hosts saw, as most have that
// more than one did: cut from a larger piece, for the allocator's sake.
func (b *Board) pair() []part {
	if len(b.pairs) < 2 {
		b.pairs = make([]part, slabSize)
	}
	p := b.pairs[:0:2]
	b.pairs = b.pairs[2:]
	return p
}

// partOf finds a host's part, or where it would stand.
func (e *entry) partOf(host uint32) (int, bool) {
	i := 0
	if len(e.parts) > 8 {
		i = sort.Search(len(e.parts), func(i int) bool { return e.parts[i].host >= host })
	}
	for i < len(e.parts) && e.parts[i].host < host {
		i++
	}
	return i, i < len(e.parts) && e.parts[i].host == host
}

// shares are the parts of an id, also where only one host saw it.
func (e *entry) shares() []part {
	if !e.several && e.host != 0 {
		return []part{{e.host - 1, e.deeds}}
	}
	return e.parts
}

// without takes out what the id did on a host, and tells whether anything is left.
func (e *entry) without(host uint32, b *Board) bool {
	i, ok := e.partOf(host)
	if !ok {
		return e.host != host+1
	}
	e.parts = slices.Delete(e.parts, i, i+1)
	e.deeds = deeds{}
	for i := range e.parts {
		e.add(&e.parts[i].deeds, b.c.decay)
	}
	e.host = e.parts[0].host + 1
	if len(e.parts) == 1 {
		e.parts, e.several = nil, false
	}
	there := func(place uint32) bool { return b.places[place].host == host }
	e.visits = slices.DeleteFunc(e.visits, func(v visit) bool { return there(v.place) })
	e.cells = slices.DeleteFunc(e.cells, func(c cell) bool { return there(c.place) })
	e.recent = slices.DeleteFunc(e.recent, func(s stamp) bool { return there(s.place) })
	e.escalated = slices.ContainsFunc(e.visits, func(v visit) bool { return v.start > 0 && b.places[v.place].escalates })
	return true
}

// Drop takes out what one host showed, as if it had never been seen. What went
// beyond what is remembered of an id, or was forgotten, is not known any more.
func (b *Board) Drop(source, host string) {
	no, ok := b.hosts[hostKey{source, host}]
	if !ok {
		return
	}
	for i := range b.n {
		if e := b.at(i); e.used && !e.without(no, b) {
			b.drop(i, e.last)
		}
	}
	for i := range b.places {
		if p := &b.places[i]; p.host == no {
			*p = place{Place: p.Place, host: p.host, jail: p.jail, weight: p.weight, escalates: p.escalates}
		}
	}
	for key := range b.countries {
		if key.host == no {
			delete(b.countries, key)
		}
	}
	b.last = nil
}

// Replace puts what another reading of a host's log showed into the place of
// what was known of it. It gives the findings of those ids that reached a
// standing by it.
func (b *Board) Replace(source, host string, by *Board) (out []Finding) {
	standings := map[string]Standing{}
	by.all(func(e *entry) {
		if i, ok := b.lookup(e.id); ok {
			standings[e.id] = b.at(i).standing(b.at(i).ban, &b.o)
		} else {
			standings[e.id] = None
		}
	})
	b.Drop(source, host)
	b.Merge(by)
	for id, before := range standings {
		i, ok := b.lookup(id)
		if !ok {
			continue
		}
		if after := b.at(i).standing(b.at(i).ban, &b.o); after > before {
			out = append(out, b.Finding(id, after))
		}
	}
	slices.SortFunc(out, func(f, g Finding) int { return cmp.Or(f.At.Compare(g.At), cmp.Compare(f.Row.ID, g.Row.ID)) })
	return out
}

// countryKey names a country's bans on a host. Those of no host count beside.
type countryKey struct {
	host    uint32
	country string
}

const noHost = ^uint32(0)

// Countries gives the true bans by the country that each came from; nil where
// no origins are told.
func (b *Board) Countries() map[string]uint64 {
	if b.o.Origin == nil {
		return nil
	}
	out := map[string]uint64{}
	for key, n := range b.countries {
		out[key.country] += n
	}
	return out
}

// AddCountries counts bans of countries that no fact told of.
func (b *Board) AddCountries(more map[string]uint64) {
	for country, n := range more {
		if n > 0 {
			b.countries[countryKey{noHost, country}] += n
		}
	}
}
