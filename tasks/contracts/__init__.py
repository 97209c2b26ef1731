"""What pods and Airflow agree on. Standard library only."""
