package publish

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// Redactor hides whom an id names. The nil one hides nothing.
type Redactor struct {
	key  []byte
	hash bool
}

// NewTruncator makes a Redactor that cuts addresses to their network, /24 and
// /64. What is no address is hashed with the key, or hidden where there is none.
func NewTruncator(key []byte) *Redactor { return &Redactor{key: key} }

// NewHasher makes a Redactor that puts a keyed hash in the place of each id:
// the same for the same id, as long as the key is.
func NewHasher(key []byte) *Redactor { return &Redactor{key: key, hash: true} }

// The lengths that addresses are cut to, and what hides an id without a key.
const (
	truncated4 = 24
	truncated6 = 64
	hidden     = "hidden"
)

// ID hides an address, a network or any other id.
func (r *Redactor) ID(id string) string {
	if r == nil || id == "" {
		return id
	}
	p, ok := prefixOf(id)
	switch {
	case ok && !r.hash:
		most := truncated4
		if p.Addr().Is6() {
			most = truncated6
		}
		return netip.PrefixFrom(p.Addr(), min(p.Bits(), most)).Masked().String()
	case ok && p.IsSingleIP():
		return r.keyed(p.Addr().String())
	case ok:
		return r.keyed(p.String())
	}
	return r.keyed(id)
}

// keyed is the hash of an id, cut to 96 bits: no address and no network, so
// that nobody takes it for one.
func (r *Redactor) keyed(id string) string {
	if len(r.key) == 0 {
		return hidden
	}
	return "h-" + hex.EncodeToString(r.sum(id)[:12])
}

func (r *Redactor) sum(text string) []byte {
	m := hmac.New(sha256.New, r.key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// prefixOf reads an id that is an address or a network.
func prefixOf(id string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(id); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(id)
	return p.Masked(), err == nil
}

// addresses finds what may be an address or a network in a text.
var addresses = regexp.MustCompile(`(?:[0-9A-Fa-f]{0,4}:){2,}[0-9A-Fa-f:.]*(?:/\d{1,3})?|\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?`)

// Text hides the addresses and networks in a text.
func (r *Redactor) Text(s string) string {
	if r == nil {
		return s
	}
	return addresses.ReplaceAllStringFunc(s, func(m string) string {
		bare := strings.TrimRight(m, ":.")
		if strings.HasSuffix(m, "::") { // it belongs to the address
			bare = m
		}
		if _, ok := prefixOf(bare); !ok {
			if _, ok := prefixOf(m); !ok {
				return m
			}
			bare = m
		}
		return r.ID(bare) + m[len(bare):]
	})
}

// row hides whom a row is about, in what explains it too.
func (r *Redactor) row(kind string, row Row) Row {
	if r == nil {
		return row
	}
	row.Values = slices.Clone(row.Values)
	id := ""
	for i, name := range columns[kind] {
		switch name {
		case "id":
			id = row.Values[i].s
			row.Values[i] = textValue(r.ID(id))
		case "network":
			row.Values[i] = textValue(r.ID(row.Values[i].s))
		}
	}
	text := func(s string) string {
		if _, ok := prefixOf(id); id != "" && !ok {
			s = strings.ReplaceAll(s, id, r.ID(id))
		}
		return r.Text(s)
	}
	row.Detail = text(row.Detail)
	proof := make([]correlate.Line, len(row.Proof))
	for i, l := range row.Proof {
		l.Text = text(l.Text)
		proof[i] = l
	}
	row.Proof = proof
	return row
}

// Offenders hides who the rows of a ranking are. Where several are then one,
// the first stands for all of them, with the sums of what can be added up.
func (r *Redactor) Offenders(rows []offender.Row) []offender.Row {
	if r == nil {
		return rows
	}
	at := map[string]int{}
	var out []offender.Row
	for _, o := range rows {
		o.ID, o.Network = r.ID(o.ID), r.ID(o.Network)
		i, ok := at[o.ID]
		if !ok {
			at[o.ID] = len(out)
			out = append(out, o)
			continue
		}
		one := &out[i]
		one.Bans += o.Bans
		one.Restores += o.Restores
		one.Failures += o.Failures
		one.GapFailures += o.GapFailures
		one.Hosts, one.Jails = max(one.Hosts, o.Hosts), max(one.Jails, o.Jails)
		if o.LastBan.After(one.LastBan) {
			one.LastBan = o.LastBan
		}
	}
	return out
}

// Networks hides which networks the rows of a ranking are; of several that are
// then one, the first stays.
func (r *Redactor) Networks(rows []offender.Network) []offender.Network {
	if r == nil {
		return rows
	}
	var out []offender.Network
	for _, n := range rows {
		n.Network = r.ID(n.Network)
		if !slices.ContainsFunc(out, func(o offender.Network) bool { return o.Network == n.Network }) {
			out = append(out, n)
		}
	}
	return out
}
