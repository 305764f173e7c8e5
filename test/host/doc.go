// Package host tests the product as it runs on a host: installed from its package, from boot to
// power-off. Each test is a scenario on whole Debian systems (test/vmtest/system), Debian 12 and
// Debian 13.
//
// make test-host runs all of it; make test runs what is not left out by -short.
package host
