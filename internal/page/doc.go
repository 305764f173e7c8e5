// Package page is the page that shows the devices of a host in a browser.
//
// It only reads, and asks servers only while somebody looks. All requests and all open pages share
// one collector, which asks each server at most once a second; a server that hangs keeps nobody
// from the others. Its files are embedded, and it needs nothing from elsewhere.
//
//	GET /                       all devices, the worst first
//	GET /device/NAME            one device
//	GET /device/NAME/surface    JSON: how its blocks look (see [Page.surface])
//	GET /live[?device=NAME]     server-sent events: what has changed
//	GET /assets/FILE            style sheet, scripts, icon
//
// # How a page is kept up to date
//
// HTML is made here and nowhere else. A page is made of parts: elements with an id and the
// attribute data-part. An event of /live has the parts that have changed, as HTML, and page.js puts
// them into the document. So a page without JavaScript looks as one with it, until it is loaded
// again. The data of an event is a [Message].
//
// On the page of a device, page.js also dispatches each message as the detail of a DOM event
// ublk-remap:status on figure.surface, which has the attributes data-device (the part of the path
// behind /device/), data-blocks, data-block-size and data-head-blocks. surface.js draws there.
//
// # Hostile names
//
// Names of sets and paths of disks are anybody's: a disk from elsewhere brings its own. They are
// text for html/template, and characters that are not visible, or change the direction of a text,
// are written as escapes.
package page
