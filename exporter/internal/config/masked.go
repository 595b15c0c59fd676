package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"

	promconfig "github.com/prometheus/common/config"
	"gopkg.in/yaml.v3"
)

// String is the configuration as YAML, with its secrets masked: passwords,
// what URLs hold of them and of tokens, and the values of headers.
func (c *Config) String() string {
	masked := *c
	masked.Sources, masked.Clients = slices.Clone(c.Sources), slices.Clone(c.Clients)
	for i := range masked.Sources {
		s := &masked.Sources[i]
		s.URL, s.HTTP = maskedURL(s.URL), maskedHTTP(s.HTTP)
	}
	for i := range masked.Clients {
		l := &masked.Clients[i]
		l.URL, l.HTTP = maskedURL(l.URL), maskedHTTP(l.HTTP)
	}
	masked.Remotes = slices.Clone(c.Remotes)
	for i, r := range masked.Remotes {
		masked.Remotes[i] = r.masked()
	}
	text, err := yaml.Marshal(&masked)
	if err != nil {
		return fmt.Sprintf("# %v", err)
	}
	return string(text)
}

const mask = "<secret>"

// ShownURL is a URL as it may be shown: without its password, and without what
// its query says.
func ShownURL(u promconfig.URL) string {
	if u.URL == nil {
		return ""
	}
	return maskedURL(u).Redacted()
}

// maskedURL masks the values of a query; YAML masks the password.
func maskedURL(u promconfig.URL) promconfig.URL {
	if u.URL == nil || u.RawQuery == "" {
		return u
	}
	plain := *u.URL
	query := url.Values{}
	for name := range plain.Query() {
		query.Set(name, "secret")
	}
	plain.RawQuery = query.Encode()
	return promconfig.URL{URL: &plain}
}

// maskedHTTP masks the values of headers, of which those under `secrets` alone
// are said to be secret, and those of proxies.
func maskedHTTP(h promconfig.HTTPClientConfig) promconfig.HTTPClientConfig {
	if h.HTTPHeaders != nil {
		headers := promconfig.Headers{Headers: maps.Clone(h.HTTPHeaders.Headers)}
		for name, one := range headers.Headers {
			if len(one.Values) > 0 {
				one.Values = []string{mask}
			}
			headers.Headers[name] = one
		}
		h.HTTPHeaders = &headers
	}
	if h.ProxyConnectHeader != nil {
		headers := maps.Clone(h.ProxyConnectHeader)
		for name := range headers {
			headers[name] = []promconfig.Secret{mask}
		}
		h.ProxyConnectHeader = headers
	}
	return h
}
