package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// place is where a network of the recordings is, in this test.
type place struct {
	network, country string
	asn              uint32
}

var atlas = []place{
	{"192.0.2.0/24", "NL", 64500}, {"198.51.100.0/25", "FR", 64501}, {"203.0.113.0/24", "DE", 64500}, {"2001:db8::/32", "SE", 64502},
}

// originFile writes one file that tells both, and gives the section `enrich`.
func originFile(t *testing.T, places ...place) (section string) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test", IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range places {
		_, network, err := net.ParseCIDR(p.network)
		if err != nil {
			t.Fatal(err)
		}
		err = tree.Insert(network, mmdbtype.Map{
			"country": mmdbtype.Map{"iso_code": mmdbtype.String(p.country)}, "autonomous_system_number": mmdbtype.Uint32(p.asn),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "origins.mmdb")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return "enrich: {country_file: '" + path + "', asn_file: '" + path + "'}\n"
}

// `report networks` gathers addresses by autonomous system too; a file that is
// not there is only warned of.
func TestReportNamesOrigins(t *testing.T) {
	file := "web-1=" + recordings + "soak/fail2ban.log"
	config := filepath.Join(t.TempDir(), "config.yaml")
	report := func(kind, section string) called {
		t.Helper()
		if err := os.WriteFile(config, []byte("sources: [{}]\n"+section), 0o600); err != nil {
			t.Fatal(err)
		}
		return call(t, "", "report", kind, "--input", file, "--timezone", "UTC", "--format", "csv", "--config.file", config)
	}
	section := originFile(t, atlas...)
	if c := report("networks", section); c.code != exitDone || !strings.Contains(c.out, ",AS64500,") || c.errors != "" {
		t.Errorf("networks: %+v", c)
	}
	if c := report("offenders", section); c.code != exitDone || !strings.Contains(c.out, "203.0.113.0/24,DE,AS64500\n") {
		t.Errorf("offenders: %+v", c)
	}
	if c := call(t, "", "check", "--offline", "--config.file", config); c.code != exitDone || !strings.Contains(c.errors, "origins.mmdb is Test of ") {
		t.Errorf("check: %+v", c)
	}
	c := report("offenders", "enrich: {country_file: nowhere.mmdb}\n")
	if c.code != exitDone || !strings.Contains(c.out, "203.0.113.0/24,,\n") || !strings.Contains(c.errors, "nowhere.mmdb: no such file") {
		t.Errorf("no file: %+v", c)
	}
}
