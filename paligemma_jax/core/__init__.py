"""The ground floor: errors, specs, units, name trees and the configuration schema. No JAX."""
