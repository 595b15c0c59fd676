package config

import (
	"errors"
	"time"

	"github.com/prometheus/common/model"
)

// Enrich names files that tell where addresses come from.
type Enrich struct {
	CountryFile   string         `yaml:"country_file"`
	ASNFile       string         `yaml:"asn_file"`
	CheckInterval model.Duration `yaml:"check_interval"`
}

// DefaultEnrich has no files.
var DefaultEnrich = Enrich{CheckInterval: model.Duration(time.Minute)}

// UnmarshalYAML sets the defaults first.
func (e *Enrich) UnmarshalYAML(unmarshal func(any) error) error {
	*e = DefaultEnrich
	type plain Enrich
	return unmarshal((*plain)(e))
}

func (e *Enrich) validate() error {
	if e.CheckInterval <= 0 {
		return errors.New("enrich.check_interval: it must be longer than 0; name no files to use none")
	}
	return nil
}
