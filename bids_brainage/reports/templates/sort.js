document.querySelectorAll("table.sortable th button").forEach(function (button) {
  button.addEventListener("click", function () {
    var th = button.parentElement, table = th.closest("table"), body = table.tBodies[0];
    var up = th.getAttribute("aria-sort") !== "ascending";
    var column = Array.prototype.indexOf.call(th.parentElement.children, th);
    var key = function (row) { var c = row.cells[column]; return c.dataset.v || c.textContent.trim(); };
    var missing = function (v) { return v === "" || v === "n/a"; };
    var rows = Array.from(body.rows).sort(function (a, b) {
      var x = key(a), y = key(b), d = x - y;
      if (missing(x) || missing(y)) { return missing(x) - missing(y); }
      return (up ? 1 : -1) * (isNaN(d) ? x.localeCompare(y, undefined, { numeric: true }) : d);
    });
    th.parentElement.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    rows.forEach(function (row) { body.appendChild(row); });
  });
});
