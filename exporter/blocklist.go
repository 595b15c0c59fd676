package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// blockParameters are those of the block list, blockFormats its forms.
var (
	blockParameters = []string{"format", "min_score", "top"}
	blockFormats    = []string{"plain", "nft", "ipset", "json"}
)

// Subnets wider than this are never listed: whoever wants so much blocked
// knows it without us, and an id is what some log says.
const (
	widestBlock4 = 16
	widestBlock6 = 32
)

// neverBlocked are the ranges that no attacker of the Internet comes from:
// unspecified, private, shared, loopback, link-local, of protocols and
// benchmarks, multicast and reserved. Documentation's are not among them.
var neverBlocked = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16",
	"198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "64:ff9b:1::/48", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// blocked is one entry of the block list.
type blocked struct {
	prefix netip.Prefix
	row    *offender.Row
}

// text is an address alone, or a network.
func (b blocked) text() string {
	if b.prefix.IsSingleIP() {
		return b.prefix.Addr().String()
	}
	return b.prefix.String()
}

// blocklist gives what may be blocked of a ranking, in its order: whole
// addresses and subnets only, that touch no range that must stay open.
func blocklist(rows []offender.Row, minScore float64, top int, allow []netip.Prefix) (out []blocked) {
	seen := map[netip.Prefix]bool{}
	for i := range rows {
		o := &rows[i]
		if len(out) == top {
			break
		}
		p, ok := blockable(o.ID, allow)
		if !ok || !o.Scored || o.Bans == 0 || o.Score < minScore || seen[p] {
			continue
		}
		seen[p] = true
		out = append(out, blocked{p, o})
	}
	return out
}

// blockable reads an id as what a firewall may block.
func blockable(id string, allow []netip.Prefix) (netip.Prefix, bool) {
	if strings.Contains(id, "%") {
		return netip.Prefix{}, false // of one interface of one host
	}
	p, ok := networkOf(id)
	if !ok || p.Addr().Is4In6() {
		return netip.Prefix{}, false
	}
	widest := widestBlock6
	if p.Addr().Is4() {
		widest = widestBlock4
	}
	return p, p.Bits() >= widest && !slices.ContainsFunc(neverBlocked, p.Overlaps) && !slices.ContainsFunc(allow, p.Overlaps)
}

// apiBlocklist answers with the ranking as firewalls take it.
func (d *daemon) apiBlocklist(v *apiView, q url.Values) ([]byte, string, error) {
	if d.cfg.Privacy.API != config.Plain {
		return nil, "", apiError{http.StatusForbidden, fmt.Errorf("privacy.api is %s: a block list needs whole addresses", d.cfg.Privacy.API)}
	}
	if err := known(q, blockParameters); err != nil {
		return nil, "", err
	}
	top, err := numberOf(q, "top", d.cfg.API.MaxOffenders, d.cfg.API.MaxOffenders)
	if err != nil {
		return nil, "", err
	}
	minScore := 0.0
	if text := q.Get("min_score"); text != "" {
		if minScore, err = strconv.ParseFloat(text, 64); err != nil || !(minScore >= 0 && minScore <= 100) {
			return nil, "", fmt.Errorf("min_score: %q; give a number from 0 to 100", text)
		}
	}
	list := blocklist(v.rows, minScore, top, config.Prefixes(d.cfg.Offenders.Allow))
	const textType = "text/plain; charset=utf-8"
	switch format := q.Get("format"); format {
	case "", "plain":
		return plainBlocklist(list), textType, nil
	case "nft":
		return nftBlocklist(list), textType, nil
	case "ipset":
		return ipsetBlocklist(list), textType, nil
	case "json":
		return jsonBlocklist(list), jsonType, nil
	default:
		return nil, "", fmt.Errorf("format: %q; give %s", format, strings.Join(blockFormats, ", "))
	}
}

// plainBlocklist is one address or network a line.
func plainBlocklist(list []blocked) []byte {
	var b bytes.Buffer
	for _, e := range list {
		b.WriteString(e.text() + "\n")
	}
	return b.Bytes()
}

// blockSet names what firewalls keep the list in.
const blockSet = "fail2ban_blocklist"

// families are told apart by firewalls.
var families = []struct {
	nft, nftType, ipset string
	is4                 bool
}{
	{"ipv4", "ipv4_addr", "inet", true},
	{"ipv6", "ipv6_addr", "inet6", false},
}

func of(list []blocked, is4 bool) (texts []string) {
	for _, e := range list {
		if e.prefix.Addr().Is4() == is4 {
			texts = append(texts, e.text())
		}
	}
	return texts
}

// nftBlocklist is a script for `nft -f`: it makes a table with two sets, where
// it is not there yet, and fills them anew in one step. It adds no rule.
func nftBlocklist(list []blocked) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "table inet %s {\n", blockSet)
	for _, f := range families {
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n\t\tflags interval\n\t\tauto-merge\n\t}\n", f.nft, f.nftType)
	}
	b.WriteString("}\n")
	for _, f := range families {
		fmt.Fprintf(&b, "flush set inet %s %s\n", blockSet, f.nft)
		if texts := of(list, f.is4); len(texts) > 0 {
			fmt.Fprintf(&b, "add element inet %s %s { %s }\n", blockSet, f.nft, strings.Join(texts, ", "))
		}
	}
	return b.Bytes()
}

// setSize is how much room a set of ipset has, more than a list ever needs. It
// must not change: a set is not made again with another size.
const setSize = 1 << 17

// ipsetBlocklist is a script for `ipset restore`: it fills sets beside those in
// use and then puts them in their places.
func ipsetBlocklist(list []blocked) []byte {
	var b bytes.Buffer
	for _, f := range families {
		texts, name := of(list, f.is4), blockSet+"_"+f.nft
		for _, set := range []string{name, name + "_new"} {
			fmt.Fprintf(&b, "create -exist %s hash:net family %s maxelem %d\n", set, f.ipset, setSize)
		}
		fmt.Fprintf(&b, "flush %s_new\n", name)
		for _, text := range texts {
			fmt.Fprintf(&b, "add -exist %s_new %s\n", name, text)
		}
		fmt.Fprintf(&b, "swap %s_new %s\ndestroy %s_new\n", name, name, name)
	}
	return b.Bytes()
}

// jsonBlocklist is one array of objects.
func jsonBlocklist(list []blocked) []byte {
	type entry struct {
		Address string  `json:"address"`
		Rank    int     `json:"rank"`
		Score   float64 `json:"score"`
		Bans    int     `json:"bans"`
	}
	out := make([]entry, len(list))
	for i, e := range list {
		out[i] = entry{e.text(), e.row.Rank, math.Round(e.row.Score*1000) / 1000, e.row.Bans}
	}
	body, _ := json.Marshal(out) // numbers and texts cannot fail
	return append(body, '\n')
}
