for (const link of document.querySelectorAll('a[href^="#e"]')) {
  link.addEventListener('click', () => {
    const place = document.querySelector(link.getAttribute('href'));
    if (place) place.closest('details').open = true;
  });
}
const table = document.querySelector('#experiments');
[...table.tHead.rows[0].cells].forEach((cell, column) => {
  let way = 1;
  cell.style.cursor = 'pointer';
  cell.addEventListener('click', () => {
    way = -way;
    const key = row => row.cells[column].innerText;
    [...table.tBodies[0].rows].sort((one, other) => {
      const [a, b] = [parseFloat(key(one)), parseFloat(key(other))];
      return way * (isNaN(a) || isNaN(b) ? key(one).localeCompare(key(other)) : a - b);
    }).forEach(row => table.tBodies[0].append(row));
  });
});
