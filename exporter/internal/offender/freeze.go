package offender

import (
	"maps"
	"slices"
)

// Freeze gives a copy of the board to read from while the board itself goes on:
// Rank, Networks, Campaigns and Returns say there what they would have said
// here. It takes about a tenth of a second for a million ids. The copy knows
// no id by name and takes no facts.
func (b *Board) Freeze() *Board {
	f := &Board{
		o: b.o, c: b.c, index: newIndex(), n: b.n, placeNo: maps.Clone(b.placeNo), hosts: maps.Clone(b.hosts), jails: maps.Clone(b.jails),
		slabs: make([][]entry, len(b.slabs)), places: slices.Clone(b.places), countries: maps.Clone(b.countries),
	}
	for i := range f.places {
		p := &f.places[i]
		p.toBan, p.toFailure = p.toBan.clone(), p.toFailure.clone()
	}
	for i, slab := range b.slabs {
		f.slabs[i] = slices.Clone(slab)
		for k := range f.slabs[i] {
			f.slabs[i][k].own()
		}
	}
	return f
}

// own makes the lists of a copied entry its own.
func (e *entry) own() {
	e.visits = copyOf(e.visits, e.visit0[:])
	e.cells = copyOf(e.cells, e.cells0[:])
	e.recent = copyOf(e.recent, e.recent0[:])
	e.parts = slices.Clone(e.parts)
}

// copyOf is a list's copy, in place where it fits.
func copyOf[T any](list, place []T) []T {
	if len(list) <= len(place) {
		return place[:copy(place, list)]
	}
	return slices.Clone(list)
}
