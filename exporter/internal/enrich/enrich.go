// Package enrich says which country and which autonomous system an address
// belongs to, by files of MaxMind's format on this machine. It asks no other
// machine, and knows nothing of fail2ban, offenders, Loki or metrics.
package enrich

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// Options name the files. A file that is not named, or not there, knows nothing.
type Options struct {
	Country string
	ASN     string
	// Every is how often Refresh looks whether the files have changed.
	Every time.Duration
}

// Files are the open files. They may be asked while they are read anew.
type Files struct {
	country, asn file
	every        time.Duration

	mu     sync.Mutex
	looked time.Time
}

// Open reads the files. What is wrong with them Refresh has told: none of it
// keeps the others from being asked.
func Open(o Options, now time.Time) (*Files, error) {
	f := &Files{
		country: file{what: "country", path: o.Country, read: country},
		asn:     file{what: "asn", path: o.ASN, read: asn},
		every:   o.Every,
	}
	return f, f.Refresh(now)
}

// Refresh reads those files again that have changed, and tells what is wrong
// with them, each fault once. Until a file can be read, what it said last holds.
func (f *Files) Refresh(now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.looked.IsZero() && now.Sub(f.looked) < f.every && !now.Before(f.looked) {
		return nil
	}
	f.looked = now
	return errors.Join(f.country.refresh(), f.asn.refresh())
}

// Country is the two letters of ISO 3166 of an address's country; empty where
// the file does not know it.
func (f *Files) Country(a netip.Addr) string { return f.country.ask(a) }

// ASN is the number of the autonomous system that an address belongs to, as
// AS64500; empty where the file does not know it.
func (f *Files) ASN(a netip.Addr) string { return f.asn.ask(a) }

// State is how one file is.
type State struct {
	What  string // country or asn
	Path  string
	Type  string    // what the file says it is
	Built time.Time // when its data were made; zero where it cannot be read
	Err   error     // what was wrong when it was last looked at
}

// States tells how each file is that is named.
func (f *Files) States() (out []State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range []*file{&f.country, &f.asn} {
		if one.path == "" {
			continue
		}
		s := State{What: one.what, Path: one.path, Err: one.err}
		if d := one.db.Load(); d != nil {
			s.Type, s.Built = d.reader.Metadata.DatabaseType, d.reader.Metadata.BuildTime().UTC()
		}
		out = append(out, s)
	}
	return out
}

// file is one file and what was last read of it.
type file struct {
	what, path string
	read       func(maxminddb.Result) string
	db         atomic.Pointer[database]

	size     int64
	modified time.Time
	err      error
}

// database is the contents of a file.
type database struct {
	reader *maxminddb.Reader
	// texts are what records say by their place in the file, which many networks
	// share. There are some 250 countries and 80,000 autonomous systems.
	texts sync.Map
}

// refresh reads the file if it is another one than before. It is read into
// memory, not mapped: a file that somebody cuts short while it is mapped ends
// the program.
func (f *file) refresh() error {
	if f.path == "" {
		return nil
	}
	info, err := os.Stat(f.path)
	if err == nil && info.Size() == f.size && info.ModTime().Equal(f.modified) {
		return nil
	}
	if err == nil {
		err = f.load()
		f.size, f.modified = info.Size(), info.ModTime()
	} else {
		f.size, f.modified = 0, time.Time{}
	}
	before := f.err
	f.err = err
	if err == nil || before != nil && before.Error() == err.Error() {
		return nil
	}
	return fmt.Errorf("%s file: %w", f.what, err)
}

func (f *file) load() error {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	r, err := maxminddb.OpenBytes(data)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.db.Store(&database{reader: r})
	return nil
}

// Absent tells whether an error says only that there is no such file.
func Absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func (f *file) ask(a netip.Addr) string {
	d := f.db.Load()
	if d == nil || !a.IsValid() {
		return ""
	}
	r := d.reader.Lookup(a.Unmap().WithZone(""))
	if r.Err() != nil || !r.Found() {
		return ""
	}
	if text, ok := d.texts.Load(r.Offset()); ok {
		return text.(string)
	}
	text := f.read(r)
	d.texts.Store(r.Offset(), text)
	return text
}

// country reads a record of GeoLite2-Country, GeoLite2-City, DB-IP or, with
// the country as a plain text, of IPinfo.
func country(r maxminddb.Result) string {
	for _, path := range [][]any{{"country", "iso_code"}, {"registered_country", "iso_code"}, {"country_code"}, {"country"}} {
		if code := text(r, path...); isCountry(code) {
			return code
		}
	}
	return ""
}

// isCountry bounds what a file can make of the label `country`.
func isCountry(code string) bool {
	return len(code) == 2 && code[0] >= 'A' && code[0] <= 'Z' && code[1] >= 'A' && code[1] <= 'Z'
}

// asn reads a record of GeoLite2-ASN, DB-IP or, with the number as a text like
// AS64500, of IPinfo.
func asn(r maxminddb.Result) string {
	var n uint32
	if r.DecodePath(&n, "autonomous_system_number") == nil && n > 0 {
		return asName(n)
	}
	digits, ok := strings.CutPrefix(text(r, "asn"), "AS")
	if !ok {
		return ""
	}
	if n, err := strconv.ParseUint(digits, 10, 32); err == nil && n > 0 {
		return asName(uint32(n))
	}
	return ""
}

func asName(n uint32) string { return "AS" + strconv.FormatUint(uint64(n), 10) }

// text reads a text of a record; empty where there is none.
func text(r maxminddb.Result, path ...any) string {
	var s string
	if r.DecodePath(&s, path...) != nil {
		return ""
	}
	return s
}
