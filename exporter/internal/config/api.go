package config

import "fmt"

// API bounds what /api/v1/ answers from.
type API struct {
	MaxOffenders int `yaml:"max_offenders"`
	MaxRestores  int `yaml:"max_restores"`
}

// DefaultAPI is what fits into some megabytes.
var DefaultAPI = API{MaxOffenders: 5000, MaxRestores: 5000}

// mostAPI bounds both: each row is made anew with every read of the log, or
// written with every save of the state.
const mostAPI = 100_000

// UnmarshalYAML sets the defaults first.
func (a *API) UnmarshalYAML(unmarshal func(any) error) error {
	*a = DefaultAPI
	type plain API
	return unmarshal((*plain)(a))
}

func (a *API) validate() error {
	for _, n := range []struct {
		key string
		is  int
	}{{"max_offenders", a.MaxOffenders}, {"max_restores", a.MaxRestores}} {
		if n.is < 1 || n.is > mostAPI {
			return fmt.Errorf("api.%s: %d; give 1 to %d", n.key, n.is, mostAPI)
		}
	}
	return nil
}
