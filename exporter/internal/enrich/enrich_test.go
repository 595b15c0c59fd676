package enrich

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// write makes a file of networks and what it says of each.
func write(t *testing.T, path string, networks map[string]mmdbtype.DataType) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test", IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for n, data := range networks {
		_, network, err := net.ParseCIDR(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(network, data); err != nil {
			t.Fatal(err)
		}
	}
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
}

func iso(code string) mmdbtype.Map { return mmdbtype.Map{"iso_code": mmdbtype.String(code)} }

func open(t *testing.T, networks map[string]mmdbtype.DataType) *Files {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.mmdb")
	write(t, path, networks)
	f, err := Open(Options{Country: path, ASN: path}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The records of MaxMind, DB-IP and IPinfo are read alike.
func TestForms(t *testing.T) {
	f := open(t, map[string]mmdbtype.DataType{
		"192.0.2.0/24":    mmdbtype.Map{"country": iso("NL"), "autonomous_system_number": mmdbtype.Uint32(64500)},
		"198.51.100.0/25": mmdbtype.Map{"registered_country": iso("FR")},
		"203.0.113.0/24":  mmdbtype.Map{"country": mmdbtype.String("DE"), "asn": mmdbtype.String("AS64501")},
		"2001:db8::/32":   mmdbtype.Map{"country_code": mmdbtype.String("SE"), "country": mmdbtype.String("Sweden"), "asn": mmdbtype.String("AS4200000000")},
		"100.64.0.0/10":   mmdbtype.Map{"country": mmdbtype.String("atlantis\n"), "asn": mmdbtype.String("64501; drop")},
		"10.0.0.0/8":      mmdbtype.String("no map"),
	})
	for addr, want := range map[string]string{
		"192.0.2.7": "NL AS64500", "::ffff:192.0.2.7": "NL AS64500", "198.51.100.1": "FR ", "198.51.100.200": " ", "203.0.113.9": "DE AS64501",
		"2001:db8::1": "SE AS4200000000", "fe80::1%eth0": " ", "100.64.0.1": " ", "10.0.0.1": " ",
	} {
		for range 2 { // the second time from memory
			a := netip.MustParseAddr(addr)
			if got := f.Country(a) + " " + f.ASN(a); got != want {
				t.Errorf("%s: %q, want %q", addr, got, want)
			}
		}
	}
	if f.Country(netip.Addr{}) != "" {
		t.Error("no address has a country")
	}
}

// A file that changes is read again; one that goes or breaks holds what it
// said, and its fault is told once.
func TestReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "country.mmdb")
	at, a := time.Now(), netip.MustParseAddr("192.0.2.1")
	f, err := Open(Options{Country: path, Every: time.Minute}, at)
	if err == nil || !Absent(err) || f.Country(a) != "" {
		t.Fatalf("no file: %v, %q", err, f.Country(a))
	}
	step := func(wait time.Duration, country, fault string) {
		t.Helper()
		at = at.Add(wait)
		err := f.Refresh(at)
		if (err == nil) != (fault == "") || err != nil && !strings.Contains(err.Error(), fault) {
			t.Errorf("told %v, want %q", err, fault)
		}
		if got := f.Country(a); got != country {
			t.Errorf("country %q, want %q", got, country)
		}
	}
	step(time.Minute, "", "") // told before
	write(t, path, map[string]mmdbtype.DataType{"192.0.2.0/24": mmdbtype.Map{"country": iso("NL")}})
	step(time.Second, "", "") // not looked at
	step(time.Minute, "NL", "")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)/3], 0o600); err != nil {
		t.Fatal(err)
	}
	step(time.Minute, "NL", "country file: "+path)
	step(time.Minute, "NL", "")
	if s := f.States(); len(s) != 1 || s[0].Err == nil || s[0].Type != "Test" || s[0].Built.IsZero() {
		t.Errorf("%+v", s)
	}
	write(t, path, map[string]mmdbtype.DataType{"192.0.2.0/24": mmdbtype.Map{"country": iso("BE"), "registered_country": iso("DE")}})
	step(time.Minute, "BE", "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step(time.Minute, "BE", "no such file")
}

func BenchmarkLookup(b *testing.B) {
	path := filepath.Join(b.TempDir(), "asn.mmdb")
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test", IncludeReservedNetworks: true})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1 << 14 {
		n := &net.IPNet{IP: net.IPv4(byte(60+i>>12), byte(i>>4), byte(i<<4), 0).To4(), Mask: net.CIDRMask(20, 32)}
		if err := tree.Insert(n, mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(64000 + i%2000)}); err != nil {
			b.Fatal(err)
		}
	}
	w, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := tree.WriteTo(w); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	f, err := Open(Options{ASN: path}, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		n++
		f.ASN(netip.AddrFrom4([4]byte{byte(60 + n>>18&3), byte(n >> 10), byte(n >> 2), byte(n)}))
	}
}
