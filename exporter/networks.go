package main

import (
	"net/netip"
	"slices"

	"fail2ban-loki-exporter/exporter/internal/config"
)

// within makes a test of ids: is this an address or a network inside one of
// the listed ones? Nil where none is listed.
func within(list []config.Prefix) func(id string) bool {
	if len(list) == 0 {
		return nil
	}
	networks := config.Prefixes(list)
	return func(id string) bool {
		p, ok := networkOf(id)
		return ok && slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) })
	}
}

// networkOf reads an id that is an address or a network.
func networkOf(id string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(id); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(id)
	return p.Masked(), err == nil
}
