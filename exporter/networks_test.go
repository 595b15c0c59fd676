package main

import (
	"net/netip"
	"testing"

	"fail2ban-loki-exporter/exporter/internal/config"
)

func TestWithin(t *testing.T) {
	if within(nil) != nil {
		t.Error("nothing is listed, and yet there is a test")
	}
	test := within([]config.Prefix{{Prefix: netip.MustParsePrefix("192.0.2.0/24")}, {Prefix: netip.MustParsePrefix("2001:db8::/32")}})
	for id, want := range map[string]bool{
		"192.0.2.7": true, "192.0.2.0/25": true, "192.0.0.0/16": false, "198.51.100.1": false, "::ffff:192.0.2.9": true,
		"2001:db8::1": true, "2001:db8::1%eth0": true, "2001:db9::1": false, "root": false, "": false,
	} {
		if got := test(id); got != want {
			t.Errorf("%s: %v", id, got)
		}
	}
}
