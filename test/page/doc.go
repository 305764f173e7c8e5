// Package page tests the page of ublk-remap-monitor in a real browser: Debian's Chromium, driven by
// chromedp, against the handler of internal/page and a source that makes devices up.
//
// Screenshots of every state are kept in dist/page, to be looked at. A few of them are compared
// with those in testdata; -update writes these anew. They are small and compared with a tolerance,
// because each version of a browser draws letters a little differently.
//
// A console message, an exception or a violation of the content security policy fails a test.
// Accessibility is checked by axe-core, which is downloaded once, into the project's cache.
package page
