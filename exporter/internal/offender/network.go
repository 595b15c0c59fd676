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

// Networks ranks the networks of the ids with true bans, as of now: greater
// strength first, then more offenders, then the newer last ban, then by name.
func (b *Board) Networks(now time.Time, top int) []Network {
	type sum struct {
		name                string
		bits                int // of the part that its addresses differ in; -1 not known
		ids                 []*entry
		failures, addresses float64
		last, ban           int64
		bans                int
	}
	sums := map[string]*sum{}
	prefixes := map[netip.Prefix]*sum{}
	into := func(s *sum, e *entry, addresses float64) {
		s.failures += float64(e.failures)
		s.last = max(s.last, e.last)
		if e.bans > 0 {
			s.ids = append(s.ids, e)
			s.bans += int(e.bans)
			s.addresses += addresses
			s.ban = max(s.ban, e.ban)
		}
	}
	b.all(func(e *entry) {
		id, ok := address(e.id)
		if !ok {
			return
		}
		addresses := math.Exp2(float64(id.Addr().BitLen() - id.Bits()))
		var before netip.Prefix
		for _, bits := range b.o.prefixes(id.Addr()) {
			p, err := id.Addr().Prefix(min(bits, id.Bits()))
			if err != nil || p == before {
				continue // a subnet wider than several of the configured lengths
			}
			before = p
			s := prefixes[p]
			if s == nil {
				s = &sum{name: p.String(), bits: id.Addr().BitLen() - p.Bits()}
				prefixes[p] = s
			}
			into(s, e, addresses)
		}
		if b.o.Network == nil {
			return
		}
		for _, name := range b.o.Network(id.Addr()) {
			s := sums[name]
			if s == nil {
				s = &sum{name: name, bits: -1}
				sums[name] = s
			}
			into(s, e, 0)
		}
	})
	p := b.newParts(now.UnixMilli())
	best := newFirst(top, func(x, y Network) int {
		return cmp.Or(cmp.Compare(rounded(y.Parts.Strength), rounded(x.Parts.Strength)), cmp.Compare(y.Offenders, x.Offenders),
			y.LastBan.Compare(x.LastBan), cmp.Compare(x.Network, y.Network))
	})
	add := func(s *sum) {
		if len(s.ids) == 0 {
			return
		}
		slices.SortFunc(s.ids, func(x, y *entry) int { return cmp.Compare(x.id, y.id) })
		for _, e := range s.ids {
			p.add(e)
		}
		n := Network{
			Network: s.name, Offenders: len(s.ids), Bans: s.bans, Failures: int(s.failures), LastSeen: timeOf(s.last), LastBan: timeOf(s.ban),
		}
		n.Parts, n.Hosts, n.Jails = p.take()
		n.Score = b.c.score(n.Parts.Strength)
		if s.bits >= 0 {
			n.Share = share(s.addresses, math.Exp2(float64(s.bits)))
		}
		best.add(n)
	}
	for _, s := range prefixes {
		add(s)
	}
	for _, s := range sums {
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

// originOf tells where an id comes from, so that members of a campaign can be
// told to come from different places: an address's widest network, else the id.
func (o *Options) originOf(id string) string {
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
