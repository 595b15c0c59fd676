package offender

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Network is a network of the ranking: the score of all its ids taken as one.
type Network struct {
	Rank      int // from 1
	Network   string
	Score     float64 // 0..100
	Parts     Parts
	Offenders int // ids with a true ban
	Bans      int
	Failures  int // of all its ids, banned or not
	Hosts     int // hosts with a true ban of one of them
	Jails     int
	// Share is which part of its addresses the offenders are; 0 for a network
	// that Options.Network named, whose size is not known.
	Share    float64
	LastSeen time.Time
	LastBan  time.Time
}

// sum is a network while its ids are gathered.
type sum struct {
	name      string // of one that Options.Network named
	prefix    netip.Prefix
	one       *entry // the first of its ids with a true ban,
	more      []*entry
	bans      int
	failures  int
	visits    int
	mass      float64
	addresses float64
	last, ban int64
}

func (s *sum) add(e *entry, mass, addresses float64) {
	s.failures += int(e.failures)
	s.last = max(s.last, e.last)
	if e.bans == 0 {
		return
	}
	if s.one == nil {
		s.one = e
	} else {
		s.more = append(s.more, e)
	}
	s.bans += int(e.bans)
	s.visits += len(e.visits)
	s.mass += mass
	s.addresses += addresses
	s.ban = max(s.ban, e.ban)
}

// network makes the row.
func (s *sum) network(p *parts) Network {
	n := Network{
		Network: s.name, Offenders: 1 + len(s.more), Bans: s.bans, Failures: s.failures, LastSeen: timeOf(s.last), LastBan: timeOf(s.ban),
	}
	if s.prefix.IsValid() {
		n.Network = s.prefix.String()
		n.Share = share(s.addresses, math.Exp2(float64(s.prefix.Addr().BitLen()-s.prefix.Bits())))
	}
	slices.SortFunc(s.more, func(x, y *entry) int { return cmp.Compare(x.id, y.id) })
	p.add(s.one)
	for _, e := range s.more {
		p.add(e)
	}
	n.Parts, n.Hosts, n.Jails = p.take()
	n.Score = p.b.c.score(n.Parts.Strength)
	return n
}

// Networks ranks the networks of the ids with true bans, as of now: greater
// strength first, then more offenders, then the newer last ban, then by name.
func (b *Board) Networks(now time.Time, top int) []Network {
	p := b.newParts(now.UnixMilli())
	named, prefixes := map[string]*sum{}, map[netip.Prefix]*sum{}
	b.all(func(e *entry) {
		id, ok := address(e.id)
		if !ok {
			return
		}
		mass, addresses := 0.0, math.Exp2(float64(id.Addr().BitLen()-id.Bits()))
		if e.bans > 0 {
			mass = p.massOf(e)
		}
		var before netip.Prefix
		for _, bits := range b.o.prefixes(id.Addr()) {
			n, err := id.Addr().Prefix(min(bits, id.Bits()))
			if err != nil || n == before {
				continue // a subnet wider than several of the configured lengths
			}
			before = n
			s := prefixes[n]
			if s == nil {
				s = &sum{prefix: n}
				prefixes[n] = s
			}
			s.add(e, mass, addresses)
		}
		if b.o.Network == nil {
			return
		}
		for _, name := range b.o.Network(id.Addr()) {
			s := named[name]
			if s == nil {
				s = &sum{name: name}
				named[name] = s
			}
			s.add(e, mass, 0)
		}
	})
	best := newFirst(top, func(x, y Network) int {
		return cmp.Or(cmp.Compare(rounded(y.Parts.Strength), rounded(x.Parts.Strength)), cmp.Compare(y.Offenders, x.Offenders),
			y.LastBan.Compare(x.LastBan), cmp.Compare(x.Network, y.Network))
	})
	add := func(s *sum) {
		// No breadth makes more of a network than all its places could, all fresh.
		most := b.c.strength(s.mass, float64(s.visits), float64(s.visits)) * (1 + 1e-9)
		if s.one != nil && (len(best.heap) < best.n || best.n > 0 && rounded(most) >= rounded(best.heap[0].Parts.Strength)) {
			best.add(s.network(p))
		}
	}
	for _, s := range prefixes {
		add(s)
	}
	for _, s := range named {
		add(s)
	}
	out := best.sorted()
	for i := range out {
		out[i].Rank = i + 1
	}
	return out
}

// address reads an id that is an address or a subnet.
func address(id string) (netip.Prefix, bool) {
	if len(id) == 0 || len(id) > 64 {
		return netip.Prefix{}, false
	}
	if c := id[0]; c != ':' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
		return netip.Prefix{}, false
	}
	if a, err := netip.ParseAddr(id); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(id)
	if err != nil {
		return netip.Prefix{}, false
	}
	return p.Masked(), true
}

// prefixes are the lengths of the networks that hold an address, the longest
// last.
func (o *Options) prefixes(a netip.Addr) []int {
	if a.Is4() {
		return []int{o.IPv4Prefix}
	}
	return o.IPv6Prefixes
}

// networkOf is the smallest of the configured networks that holds an id; empty
// for one that is no address.
func (o *Options) networkOf(id string) string {
	return o.network(id, func(bits []int) int { return slices.Max(bits) })
}

// neighbourhoodOf tells where an id comes from, so that members of a campaign can
// be told to come from different places: an address's widest network, else the id.
func (o *Options) neighbourhoodOf(id string) string {
	return cmp.Or(o.network(id, func(bits []int) int { return slices.Min(bits) }), id)
}

func (o *Options) network(id string, pick func([]int) int) string {
	p, ok := address(id)
	if !ok {
		return ""
	}
	bits := o.prefixes(p.Addr())
	if len(bits) == 0 {
		return ""
	}
	n, err := p.Addr().Prefix(min(pick(bits), p.Bits()))
	if err != nil {
		return ""
	}
	return n.String()
}
