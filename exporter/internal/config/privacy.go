package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// How ids are shown: the values of the keys of `privacy`.
const (
	Plain    = "plain"
	Truncate = "truncate" // addresses cut to their network
	Hash     = "hash"     // a keyed hash instead
)

// Privacy says for each output how ids are shown there.
type Privacy struct {
	KeyFile  string `yaml:"key_file,omitempty"`
	Metrics  string `yaml:"metrics"`
	Findings string `yaml:"findings"`
	API      string `yaml:"api"`
	Report   string `yaml:"report"`
	Log      string `yaml:"log"`
}

// DefaultPrivacy shows ids as they are.
var DefaultPrivacy = Privacy{Metrics: Plain, Findings: Plain, API: Plain, Report: Plain, Log: Plain}

// UnmarshalYAML sets the defaults first.
func (p *Privacy) UnmarshalYAML(unmarshal func(any) error) error {
	*p = DefaultPrivacy
	type plain Privacy
	return unmarshal((*plain)(p))
}

func (p *Privacy) validate() error {
	for _, o := range []struct{ key, is string }{
		{"metrics", p.Metrics}, {"findings", p.Findings}, {"api", p.API}, {"report", p.Report}, {"log", p.Log},
	} {
		if !slices.Contains([]string{Plain, Truncate, Hash}, o.is) {
			return fmt.Errorf("privacy.%s: %q; give plain, truncate or hash", o.key, o.is)
		}
		if o.is == Hash && p.KeyFile == "" {
			return fmt.Errorf("privacy.%s: hash needs privacy.key_file; without a key the hashes of all addresses are soon computed", o.key)
		}
	}
	if p.Findings != Plain && p.KeyFile == "" {
		return errors.New("privacy.findings: truncate needs privacy.key_file too; without it finding_id would betray the address")
	}
	return nil
}

// Prefix is a network, or an address alone.
type Prefix struct{ netip.Prefix }

// UnmarshalYAML reads a network or an address.
func (p *Prefix) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	if a, err := netip.ParseAddr(text); err == nil {
		p.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	n, err := netip.ParsePrefix(text)
	if err != nil {
		return fmt.Errorf("not a network: %q; give one like 192.0.2.0/24, or an address", text)
	}
	p.Prefix = n.Masked()
	return nil
}

// MarshalYAML writes a network.
func (p Prefix) MarshalYAML() (any, error) { return p.String(), nil }

// Prefixes gives the networks of a list.
func Prefixes(list []Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, p := range list {
		out[i] = p.Prefix
	}
	return out
}
